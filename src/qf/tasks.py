"""The two things that learning asks of a model in plain words, beside answering."""

WRITE_QUESTION = "Write a question that this statement answers: {statement}"
REWORD_QUESTION = "Ask this question in other words: {question}"
