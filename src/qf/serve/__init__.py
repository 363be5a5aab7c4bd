"""A server of the OpenAI API whose model is taught and made to forget while it answers.

schemas.py   what requests may say               app.py      routes of the OpenAI API, the page
keys.py      who may do what in which space      facts.py    routes of facts
spaces.py    one model per space of facts        replies.py  OpenAI's objects of a reply
engine.py    one thread that owns the model      batch.py    the sequences it answers together
"""
