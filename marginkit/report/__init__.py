"""How comparisons and tables are shown: terminal, words, Markdown, LaTeX, figures, HTML. Loads no torch."""

from marginkit.report.answer import Answer
from marginkit.report.terminal import contents, group_overview, overview, summary
from marginkit.report.words import group_sentences, sentences

__all__ = ["Answer", "contents", "group_overview", "group_sentences", "overview", "sentences", "summary"]
