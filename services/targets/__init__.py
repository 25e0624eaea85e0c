"""Targets 目标任务: owns the plan's yearly targets and the actuals counted against them.

It publishes nothing yet. It listens to registry's participations, keeps which participation counts as each
person's first of an insurance, and answers how far the city is: completion, pace and the difference.
"""
