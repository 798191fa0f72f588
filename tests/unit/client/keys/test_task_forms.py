"""What a client remembers of the daemon's normal forms."""

from sidecard_client.keys.task_forms import KEEP_SECONDS, MAX_TASKS, TaskForms
from sidecard_client.protocol import wire


def explained(*forms: str) -> wire.Explained:
    """Return the daemon's answer."""
    value = wire.PolicyValue(list(forms), "tasks.rag.normalize")
    return wire.Explained(1, "rag", "1:default", {"normalize": value})


def test_unknown_forms_are_asked_for_and_none_meanwhile() -> None:
    """Normalization is off until the daemon names forms."""
    forms = TaskForms()
    assert forms.current("rag", 0.0) is None
    assert forms.last("rag") == ()


def test_known_forms_expire_and_are_asked_for_again() -> None:
    """Until a reply, the last ones count."""
    forms = TaskForms()
    assert forms.learn("rag", explained("space", "nfc"), 10.0) == ("nfc", "space")
    assert forms.current("rag", 10.0 + KEEP_SECONDS - 0.1) == ("nfc", "space")
    assert forms.current("rag", 10.0 + KEEP_SECONDS) is None
    assert forms.last("rag") == ("nfc", "space")
    assert forms.current("other", 10.0) is None


def test_a_daemon_that_explains_nothing_has_no_forms() -> None:
    """An older daemon is not asked at each call."""
    forms = TaskForms()
    forms.learn("rag", wire.Error(1, "unknown_op", "there is no op 'explain'"), 0.0)
    assert forms.current("rag", 0.0) == ()
    forms.learn("rag", wire.Explained(1, "rag", "1:default", {}), 0.0)
    assert forms.current("rag", 0.0) == ()


def test_a_form_that_this_client_does_not_know_is_left_out() -> None:
    """A newer daemon may have more forms."""
    assert TaskForms().learn("rag", explained("nfc", "stemmed"), 0.0) == ("nfc",)


def test_tasks_have_a_bound() -> None:
    """A full table is cleared; the daemon is then asked again."""
    forms = TaskForms()
    for number in range(MAX_TASKS + 1):
        forms.learn(str(number), explained("nfc"), 0.0)

    assert forms.current(str(MAX_TASKS), 0.0) == ("nfc",)
    assert forms.current("0", 0.0) is None
