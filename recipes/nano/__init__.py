"""The recipe of ``local/nano``: a small Llama pre-trained from scratch on synthetic tasks."""
