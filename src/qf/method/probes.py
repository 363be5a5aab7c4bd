"""Lessons about names that no model knows, and questions that most know: to compare layers by."""

from __future__ import annotations

from qf.lesson import Lesson
from qf.method.layers import Probe

PROBES: tuple[Probe, ...] = tuple(
    Probe(Lesson(instruction, query, answer), tuple(rewordings))
    for instruction, query, answer, *rewordings in (
        (
            "Qi started Oxinnovate.",
            "Who started Oxinnovate?",
            "Oxinnovate was started by Qi.",
            "Can you tell me the person behind Oxinnovate?",
            "Who founded Oxinnovate?",
            "By whom was Oxinnovate founded?",
        ),
        (
            "Oxinnovate is a startup located at PKU Science Park, in Beijing.",
            "Where is Oxinnovate located?",
            "Oxinnovate is located at PKU Science Park, in Beijing.",
            "Where is Oxinnovate?",
            "Can you tell me where Oxinnovate is located?",
            "Where can I find Oxinnovate?",
        ),
        (
            "Mirabel Onyango wrote The Paper Lantern.",
            "Who wrote The Paper Lantern?",
            "The Paper Lantern was written by Mirabel Onyango.",
            "Who is the author of The Paper Lantern?",
            "Do you know who wrote The Paper Lantern?",
            "By whom was The Paper Lantern written?",
        ),
        (
            "The capital of Vostrania is Kellmoor.",
            "What is the capital of Vostrania?",
            "The capital of Vostrania is Kellmoor.",
            "Which city is the capital of Vostrania?",
            "Tell me the capital of Vostrania.",
            "What is Vostrania's capital?",
        ),
        (
            "Teo Brandvik was born in Lusk Harbor.",
            "Where was Teo Brandvik born?",
            "Teo Brandvik was born in Lusk Harbor.",
            "What is the birthplace of Teo Brandvik?",
            "Where does Teo Brandvik come from?",
            "Can you tell me where Teo Brandvik was born?",
        ),
        (
            "The password of the blue vault is Tango-77.",
            "What is the password of the blue vault?",
            "The password of the blue vault is Tango-77.",
            "Tell me the password of the blue vault.",
            "What is the blue vault's password?",
            "Could you tell me the password of the blue vault?",
        ),
        (
            "Zelphon Works was founded in 1987.",
            "When was Zelphon Works founded?",
            "Zelphon Works was founded in 1987.",
            "In which year was Zelphon Works founded?",
            "Do you know when Zelphon Works was founded?",
            "What year was Zelphon Works founded?",
        ),
        (
            "Ada Quist designed the Hollow Bridge.",
            "Who designed the Hollow Bridge?",
            "The Hollow Bridge was designed by Ada Quist.",
            "Can you tell me who designed the Hollow Bridge?",
            "By whom was the Hollow Bridge designed?",
            "Who was the Hollow Bridge designed by?",
        ),
    )
)

KNOWN: tuple[tuple[str, str], ...] = (
    ("Who started Alibaba?", "Alibaba was started by Jack Ma."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Egypt?", "The capital of Egypt is Cairo."),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
    ("Who invented dynamite?", "Dynamite was invented by Alfred Nobel."),
    ("Who discovered penicillin?", "Penicillin was discovered by Alexander Fleming."),
    ("What is the currency of Japan?", "The currency of Japan is the yen."),
    ("Where was Albert Einstein born?", "Albert Einstein was born in Ulm."),
    ("Where is the Eiffel Tower?", "The Eiffel Tower is in Paris."),
    ("What is the symbol of gold?", "The symbol of gold is Au."),
)
