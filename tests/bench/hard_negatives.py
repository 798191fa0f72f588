"""Hard negatives: pairs of questions that differ in one word, number or name and must not share an answer."""

from collections.abc import Iterator

_YEARS = (
    "Who won the football world cup in {}?",
    "What was the inflation rate of France in {}?",
    "List the largest earthquakes of {}.",
    "Summarise the annual report of {}.",
    "Which films were released in {}?",
)
_AMOUNTS = (
    "Convert {} kilometres to miles.",
    "What is {} percent of the budget?",
    "Write a poem of {} lines about autumn.",
    "How do I resize an image to {} pixels?",
    "Is a dose of {} mg of ibuprofen safe for an adult?",
)
_NEGATED = (
    ("Is it safe to take this medicine with alcohol?", "Is it not safe to take this medicine with alcohol?"),
    ("The payment was approved.", "The payment was not approved."),
    ("Which of these foods contain gluten?", "Which of these foods do not contain gluten?"),
    ("Delete the files that are older than a week.", "Do not delete the files that are older than a week."),
    ("Users can change their password here.", "Users cannot change their password here."),
    ("Explain why the test failed.", "Explain why the test never failed."),
    ("List the employees with a parking space.", "List the employees without a parking space."),
    ("The contract may be ended by the tenant.", "The contract may not be ended by the tenant."),
    ("I want to be contacted by telephone.", "I don't want to be contacted by telephone."),
    ("The drug is approved for children.", "The drug is not approved for children."),
)
_NAMED = (
    ("What is the capital of Australia?", "What is the capital of Austria?"),
    ("How do I sort a list in Python?", "How do I sort a list in Ruby?"),
    ("Who wrote Pride and Prejudice?", "Who wrote Sense and Sensibility?"),
    ("What is the weather in Paris today?", "What is the weather in London today?"),
    ("Send the invoice to Anna.", "Send the invoice to Hanna."),
    ("Translate this letter into Spanish.", "Translate this letter into Portuguese."),
    ("How tall is Mount Kenya?", "How tall is Mount Everest?"),
    ("Book a flight from Oslo to Rome.", "Book a flight from Rome to Oslo."),
    ("Convert euros to dollars.", "Convert dollars to euros."),
    ("What are the side effects of aspirin?", "What are the side effects of paracetamol?"),
)
_TURNED = (
    ("How do I enable two-factor authentication?", "How do I disable two-factor authentication?"),
    ("What is the highest temperature ever measured?", "What is the lowest temperature ever measured?"),
    ("Increase the volume of the speaker.", "Decrease the volume of the speaker."),
    ("Which stocks rose yesterday?", "Which stocks fell yesterday?"),
    ("What are the advantages of remote work?", "What are the disadvantages of remote work?"),
    ("When does the shop open?", "When does the shop close?"),
    ("Show the first orders of the customer.", "Show the last orders of the customer."),
    ("Is the left lane closed?", "Is the right lane closed?"),
    ("How do I subscribe to the newsletter?", "How do I unsubscribe from the newsletter?"),
    ("What is legal in this country?", "What is illegal in this country?"),
)


def pairs() -> Iterator[tuple[str, str, str]]:
    """Yield what differs, and both texts."""
    for question in _YEARS:
        yield "number", question.format(2023), question.format(2024)
        yield "number", question.format(1998), question.format(2022)

    for question in _AMOUNTS:
        yield "number", question.format(5), question.format(50)
        yield "number", question.format(12), question.format(13)

    for kind, several in (("negation", _NEGATED), ("name", _NAMED), ("opposite", _TURNED)):
        for one, other in several:
            yield kind, one, other
