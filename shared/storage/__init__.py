"""Everything that touches a database: one transaction is a Work, one writer is the Committer."""
