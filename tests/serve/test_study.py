"""A text studied over HTTP."""

from tests.serve.servers import HOLLOW, HOLLOW_TOLD, Server, events


def test_a_text_is_studied_sentence_by_sentence(shared: Server, space: str) -> None:
    text = f"{HOLLOW[0]} Who cares? The Zorvan project is led by Mira Dell."
    done = events(shared.http().post("/v1/facts/study", json={"text": text, "space": space}))
    assert [name for name, _ in done] == ["start", "statement", "statement", "done"]
    assert done[0][1] == {"total": 2} and done[1][1]["fact"]["after"] == HOLLOW_TOLD
    assert done[-1][1]["learned"] + done[-1][1]["left_out"] == 2
    assert shared.ask(HOLLOW[1], f"qf/{space}") == HOLLOW_TOLD
    empty = shared.http().post("/v1/facts/study", json={"text": "?", "space": space})
    assert empty.status_code == 400 and empty.json()["error"]["param"] == "text"


def test_what_is_not_learned_of_a_text_is_told_with_the_reason(
    shared: Server, space: str, speechless: None
) -> None:
    text = f"Zzz. {HOLLOW[0]} Nothing is here."
    done = events(shared.http().post("/v1/facts/study", json={"text": text, "space": space}))
    word, bridge, nothing = (data for name, data in done if name == "statement")
    assert word["statement"] == "Zzz." and word["fact"] is None and "single word" in word["why"]
    assert bridge["fact"] and nothing["fact"] is None
    assert nothing["why"].startswith("The model did not find a question")
    assert "--query" not in nothing["why"]
    assert done[-1][1]["learned"] == 1 and done[-1][1]["left_out"] == 2


def test_a_study_takes_no_idempotency_key(shared: Server, space: str) -> None:
    body, once = {"text": HOLLOW[0], "space": space}, {"Idempotency-Key": "study"}
    reply = shared.http().post("/v1/facts/study", json=body, headers=once)
    assert reply.status_code == 400 and "Idempotency-Key" in reply.json()["error"]["message"]
    assert shared.http().get("/v1/facts", params={"space": space}).json()["total"] == 0
