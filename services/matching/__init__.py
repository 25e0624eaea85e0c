"""Matching 数据比对: owns the rules, the legal clocks, the leads 线索 on their ladder, exemptions and visits.

It publishes lead_opened, lead_changed, lead_advanced, lead_corrected, lead_held, lead_released, lead_resolved and
visit_requested. It listens
to registry's units, participations, declarations of complete data and calendar, and to what became of notices.
"""
