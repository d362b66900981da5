"""A site's worker that misbehaves in one round: python faulty_worker.py SITE.YAML FAULT ROUND

`make_faulty` is the same for a worker in this process. What a fault does to an honest answer is in `FAULTS`; `slow`
waits before it trains, `hang` for ever, both after the file `begun` in the site's folder says that they have begun.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.federation.message import decode, encode

SLOW_SECONDS, HANG_SECONDS = 6.0, 3600.0


def truncate(request, answer):
    return answer[:-7]


def send_nan(request, answer):
    return change_reply(request, answer, lambda sent, tensor: torch.full_like(tensor, float("nan")))


def send_other_shape(request, answer):
    return change_reply(request, answer, lambda sent, tensor: torch.cat([tensor, tensor[:1]]))


def send_far(request, answer):
    """An update a hundred times as long, from where the server's message left the tensors that it holds."""
    return change_reply(request, answer, lambda sent, tensor: sent + 100 * (tensor - sent))


def change_reply(request, answer, change):
    sent, (header, parts) = decode(unpack(request)[1][0]), unpack(answer)
    reply = decode(parts[0])
    return pack(header, [encode(replace(reply, tensors=change_tensors(sent.tensors, reply.tensors, change)))])


def change_tensors(sent, tensors, change):
    """`change(sent, tensor)` of every floating tensor; what was not sent counts as zeros."""
    return {
        name: change(sent.get(name, torch.zeros_like(tensor)), tensor) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


FAULTS = {"truncated": truncate, "nan": send_nan, "shape": send_other_shape, "far": send_far}


def make_faulty(answer, fault, client_round, begun):
    """The worker's `answer` with a fault in one round's training."""

    def answer_with_fault(request):
        header, parts = unpack(request)
        if header["ask"] != "train" or decode(parts[0]).round != client_round:
            return answer(request)
        if fault in FAULTS:
            return FAULTS[fault](request, answer(request))
        is_first = not begun.exists()
        begun.write_text("")
        if is_first:
            time.sleep(SLOW_SECONDS if fault == "slow" else HANG_SECONDS)
        return answer(request)

    return answer_with_fault


def main(config, fault, client_round):
    from fedpeft.sites.config import load_site
    from fedpeft.sites.site import Site
    from fedpeft.sites.worker import serve, stop_on_signals

    site = load_site(Path(config))
    begun = Path(config).parent / "begun"
    begun.unlink(missing_ok=True)
    serve(Path(site.socket), make_faulty(Site(site).answer, fault, int(client_round), begun), stop_on_signals())


if __name__ == "__main__":
    main(*sys.argv[1:])
