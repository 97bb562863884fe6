"""The graphs of the company, as they work without a fault."""

from __future__ import annotations

from tests.docs.company.steps import Behaviour, Behaviours, Wiring


def answer() -> tuple[Behaviours, Wiring]:
    """Answer questions from documents or the web, and check the answer."""
    small, large = "gpt-5-mini", "claude-sonnet-4-5"
    return {
        "Route": Behaviour(
            0.35, small, (420, 12), {"documents": 0.74, "web": 0.24, "chat": 0.02}
        ),
        "Retrieve": Behaviour(0.09, custom=("documents", 12)),
        "GradeDocuments": Behaviour(
            0.8, small, (2600, 60), {"relevant": 0.82, "irrelevant": 0.18}
        ),
        "WebSearch": Behaviour(0.7, errors={"search": 0.02}, retries=3),
        "RewriteQuestion": Behaviour(0.6, small, (300, 80)),
        "Generate": Behaviour(2.2, large, (3400, 520), has_fallback=True, retries=2),
        "CheckAnswer": Behaviour(
            0.9,
            small,
            (3900, 40),
            {"useful": 0.84, "invented": 0.1, "off topic": 0.06},
        ),
        "Respond": Behaviour(0.02),
        "SmallTalk": Behaviour(0.5, small, (200, 60)),
        "AskHuman": Behaviour(0.1),
    }, [
        ("Route", "documents", "Retrieve"),
        ("Route", "web", "WebSearch"),
        ("Route", "chat", "SmallTalk"),
        ("Route", "complaint", "AskHuman"),
        ("Retrieve", "default", "GradeDocuments"),
        ("GradeDocuments", "relevant", "Generate"),
        ("GradeDocuments", "irrelevant", "RewriteQuestion"),
        ("RewriteQuestion", "default", "Retrieve"),
        ("WebSearch", "default", "Generate"),
        ("Generate", "default", "CheckAnswer"),
        ("CheckAnswer", "useful", "Respond"),
        ("CheckAnswer", "invented", "Generate"),
        ("CheckAnswer", "off topic", "RewriteQuestion"),
        ("SmallTalk", "default", "Respond"),
        ("AskHuman", "default", "Respond"),
    ]


def order() -> tuple[Behaviours, Wiring]:
    """Take an order, with a model that looks for fraud."""
    return {
        "Validate": Behaviour(0.04, actions={"valid": 0.97, "invalid": 0.03}),
        "Reserve": Behaviour(0.12, errors={"stock": 0.004}),
        "FraudCheck": Behaviour(
            0.9, "gpt-5-mini", (1800, 90), {"fine": 0.93, "review": 0.07}
        ),
        "Review": Behaviour(0.4, actions={"accept": 0.8, "reject": 0.2}),
        "Pay": Behaviour(0.45, "gpt-5-mini", (900, 40)),
        "Confirm": Behaviour(0.06),
        "Refuse": Behaviour(0.03),
    }, [
        ("Validate", "valid", "Reserve"),
        ("Validate", "invalid", "Refuse"),
        ("Reserve", "default", "FraudCheck"),
        ("FraudCheck", "fine", "Pay"),
        ("FraudCheck", "review", "Review"),
        ("Review", "accept", "Pay"),
        ("Review", "reject", "Refuse"),
        ("Pay", "default", "Confirm"),
    ]


def documents() -> tuple[Behaviours, Wiring]:
    """Index documents."""
    return {
        "Fetch": Behaviour(0.3, actions={"changed": 0.7, "unchanged": 0.3}),
        "Parse": Behaviour(0.5, custom=("pages", 14)),
        "Summarize": Behaviour(1.6, "gpt-5-mini", (5200, 240), retries=3),
        "Embed": Behaviour(0.25, "text-embedding-3-small", (4800, 0)),
        "Store": Behaviour(0.05),
        "Skip": Behaviour(0.01),
    }, [
        ("Fetch", "changed", "Parse"),
        ("Fetch", "unchanged", "Skip"),
        ("Parse", "default", "Summarize"),
        ("Summarize", "default", "Embed"),
        ("Embed", "default", "Store"),
    ]


def ticket() -> tuple[Behaviours, Wiring]:
    """Draft answers to tickets, and send the answers that a reviewer approves."""
    return {
        "Triage": Behaviour(
            0.3,
            "gpt-5-mini",
            (500, 10),
            {"question": 0.7, "refund": 0.2, "spam": 0.1},
        ),
        "Draft": Behaviour(1.8, "claude-sonnet-4-5", (1900, 380), retries=3),
        "Review": Behaviour(
            0.7, "gpt-5-mini", (1100, 50), {"approve": 0.8, "revise": 0.2}
        ),
        "Refund": Behaviour(0.3),
        "Send": Behaviour(0.08),
        "Close": Behaviour(0.02),
    }, [
        ("Triage", "question", "Draft"),
        ("Triage", "refund", "Refund"),
        ("Triage", "spam", "Close"),
        ("Draft", "default", "Review"),
        ("Review", "approve", "Send"),
        ("Review", "revise", "Draft"),
        ("Refund", "default", "Send"),
    ]


GRAPHS = {"answer": answer, "order": order, "documents": documents, "ticket": ticket}
