"""What the tests of the commands share."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _hangup_is_answered():
    """Have SIGHUP as in a terminal, also where the tests run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def refused(run, capsys):
    """Return the message with which the command, `run` of the module, ends with `status`."""

    def refused(*arguments, status=2, **options):
        capsys.readouterr()  # what came before is not the command's
        with pytest.raises(SystemExit) as caught:
            run(*arguments, **options)
        assert caught.value.code == status
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        # The console may have broken lines.
        return " ".join(printed.err.split())

    return refused
