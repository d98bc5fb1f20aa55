"""Plugs: what is collected goes when its owner is through or sleeps."""

from typing import Any

from netvm.units import NS_PER_S


def test_a_plug_holds_requests_until_it_is_finished(make_host: Any) -> None:
    """Consecutive pages merge into requests of the limit; a full one leaves when the next begins."""
    host = make_host()

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for slot in range(0, 80, 4):
            await host.submit_pages(task, plug, slot, 4)
            assert len(host.device.shapes) == slot // 32
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert host.device.shapes == [("W", 0, 32), ("W", 32, 32), ("W", 64, 16)]
    assert host.device.store == {slot: slot for slot in range(80)}


def test_a_task_that_sleeps_flushes_its_plug(make_host: Any) -> None:
    """Somebody may wait for what was collected."""
    host = make_host()

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 0, 4)
        await host.pause(task, NS_PER_S)
        assert host.device.shapes == [("W", 0, 4)]
        plug.finish()

    host.run(body)
