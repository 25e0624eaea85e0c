"""Registry 单位库: units, their contacts, people and who is insured since when, as departments supplied it.

Owns units, contacts, people (the only place that knows an ID number), participations, how complete each data
set is, and the published working-day calendar. Publishes registry.* events for every change. Listens to
matching's lead_resolved, to mark units whose data was found wrong. Answers the last look.
"""
