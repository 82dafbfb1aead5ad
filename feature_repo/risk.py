"""What a bank knows of an account, a card and an e-mail domain."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float32
from sources import source_of

_OWNER = "risk@recstill.dev"

applicant = Entity(name="applicant", join_keys=["applicant_id"], value_type=ValueType.INT64)
card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
email_domain = Entity(name="email_domain", join_keys=["email_domain"], value_type=ValueType.STRING)

_MONTHS = range(1, 7)
account_history = FeatureView(
    name="account_history",
    entities=[applicant],
    ttl=timedelta(0),
    schema=[
        Field(name="credit_limit", dtype=Float32, description="granted credit, New Taiwan dollars"),
        Field(name="utilisation", dtype=Float32, description="last bill over the limit"),
        Field(name="utilisation_mean", dtype=Float32, description="mean bill of six months over the limit"),
        Field(name="worst_status", dtype=Float32, description="most months of delay within six months"),
        Field(name="months_late", dtype=Float32, description="months with a delay, of six"),
        Field(name="paid_mean", dtype=Float32, description="mean payment of six months"),
        *(Field(name=f"status_{m}", dtype=Float32, description="months of delay; -1 paid duly, -2 no use") for m in _MONTHS),
        *(Field(name=f"bill_{m}", dtype=Float32, description="bill, 1 is the newest") for m in _MONTHS),
        *(Field(name=f"paid_{m}", dtype=Float32, description="payment, 1 is the newest") for m in _MONTHS),
    ],
    source=source_of("taiwan-credit", "account_history"),
    tags={"task": "credit", "availability": "request", "freshness": "monthly"},
    owner=_OWNER,
    description="Six months of bills, payments and delays of a card holder.",
)

card_history = FeatureView(
    name="card_history",
    entities=[card],
    ttl=timedelta(0),
    schema=[
        Field(name=name, dtype=Float32, description="payments with the card in the days before")
        for name in (
            "card_count_1d",
            "card_count_7d",
            "card_count_30d",
            "card_amount_1d",
            "card_amount_30d",
            "card_hours_since",
        )
    ],
    source=source_of("ieee-cis-fraud", "card_history"),
    tags={"task": "fraud", "availability": "request", "freshness": "daily"},
    owner=_OWNER,
    description="What a card did in the last day, week and month.",
)

email_history = FeatureView(
    name="email_history",
    entities=[email_domain],
    ttl=timedelta(0),
    schema=[
        Field(name=name, dtype=Float32, description="payments to the recipient's e-mail domain in the days before")
        for name in ("email_count_1d", "email_amount_7d")
    ],
    source=source_of("ieee-cis-fraud", "email_history"),
    tags={"task": "fraud", "availability": "request", "freshness": "daily"},
    owner=_OWNER,
    description="What an e-mail domain received in the last day and week.",
)

credit_v1 = FeatureService(name="credit_v1", features=[account_history], description="What a credit model may see.")
fraud_v1 = FeatureService(name="fraud_v1", features=[card_history, email_history], description="What a fraud model may see.")
