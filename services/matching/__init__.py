"""Matching 数据比对: owns the rules, the legal clocks, the leads 线索 and the visits it asks for.

It publishes lead_opened, lead_changed, lead_held, lead_released, lead_resolved and visit_requested. It listens
to registry's units, participations, declarations of complete data and calendar, and to what became of notices.
"""
