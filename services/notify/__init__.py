"""Notify 通知: owns its copy of units' contacts, bindings, notices, attempts, receipts, the brake and the carriers.

It listens to contact_changed, lead_* and reference_changed. It hands each due notice to a carrier at most once
per channel, WeChat before SMS, after a last look at registry, all units behind a phone in one message, and publishes notice_handed_over, notice_delivered,
notice_unreached and notice_withdrawn.
"""
