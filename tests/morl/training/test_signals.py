"""The first signal asks, a second Ctrl-C ends."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from morl.training.signals import Stopped, StopRequest, stop_on_signals


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_remembered_until_the_step_is_done(number, exit_code):
    with stop_on_signals() as request:
        assert not request
        assert request.exit_code == 0
        os.kill(os.getpid(), number)
        assert request
        assert request.exit_code == exit_code


def test_a_second_ctrl_c_ends_at_once():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGINT)
        assert end.value.code == 130


def test_it_listens_again_after_another_library_took_the_signals():
    with stop_on_signals() as request:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not request
        request.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.exit_code == 143


def test_sigterm_twice_still_lets_the_save_finish():
    with stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.exit_code == 143


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyError), stop_on_signals():
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_installed():
    seen: list[StopRequest] = []

    def work():
        with stop_on_signals() as request:
            seen.append(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not seen[0]


def test_the_error_carries_the_exit_code():
    assert Stopped("saved at step 3", 143).exit_code == 143
