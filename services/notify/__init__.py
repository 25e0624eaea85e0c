"""Notify 通知: owns its copy of units' contacts, notices, attempts, receipts, the brake and the carriers.

It listens to contact_changed, lead_* and reference_changed. It hands each due notice to a carrier at most once
per channel, after a last look at registry, and publishes notice_handed_over, notice_delivered,
notice_unreached and notice_withdrawn.
"""
