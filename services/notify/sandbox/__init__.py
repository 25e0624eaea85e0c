"""The carrier sandbox: a simulated 云MAS and a simulated WeChat, each with its network behind it.

It checks real signatures, answers with real codes and pushes receipts in the real format until they are
taken. It plays the outside world, so it shares nothing with the notify service but the protocols.

The ledger (an SQLite file of its own, table `messages`) is what "really" reached the network. A row is
committed before its submission is answered and survives kill -9. It holds mobile numbers, openids and texts
in clear, because it *is* the network: use invented ones only. Logs, errors and HTTP answers mask them.

Receipts fall due by business time; back-off between pushes, tokens and scripted slowness run on wall time.
"""

from services.notify.sandbox.app import Sandbox, build_sandbox
from services.notify.sandbox.ledger import SCHEMA, Ledger
from services.notify.sandbox.settings import SandboxSettings

__all__ = ["SCHEMA", "Ledger", "Sandbox", "SandboxSettings", "build_sandbox"]
