"""What the protocol relies on, one name a rule. It must not know how a rule is enforced, or broken."""

from __future__ import annotations

RULES: dict[str, str] = {
    # publishers
    "open-then-scan": "a new term first puts an opening record in every partition; what precedes it is its predecessors'",
    "term-before-open": "a term is taken in the store before its opening record can be in the log",
    "resume-before-cuts": "a publisher resumes from a checkpoint before every later cut, or a version of the live chain, only",
    "resume-expires": "a resume from C expires every uncommitted checkpoint past C, before it reads what is committed",
    "dirty-on-resume": "a resume from C makes dirty what the log carries past C up to the opening records",
    "dirty-from-versions": "a resume from C makes dirty what the live chain's versions past C carry",
    "dirty-before-checkpoint": "and what was touched between the newest state on the live chain at or before C, and C",
    "reserve-ahead": "with several publishers, nobody learns beyond W before W is reserved in every partition",
    # checkpoints
    "flush-sees-fences": "a checkpoint counts only if, after its last marker, no later timeline is claimed and not abandoned",
    "flush-sees-terms": "a checkpoint counts only if, after its last marker, each of its publishers still has its term",
    "cut-barrier": "between its flush and the last marker of a checkpoint no publisher appends a record of its own",
    "fold-needs-all-sent": "a delta is folded from the log only if no checkpoint in (base, head] left a touched key unsent",
    "dirty-is-unsent": "a key that a resume made dirty is unsent until its row was sent and acknowledged",
    # rollback
    "claim-before-fence": "the claim of a timeline is in the store before any fence of it can be in the log",
    "reserved-in-versions": "a version states the newest reservation before its positions; a base of recovery has it < T",
    "cuts-after-fences": "cuts and undo are computed after the last fence; those of the plan are a forecast",
    "cuts-count-dropped": "records that readers drop (zombies, duplicates) count for the cut as well",
    "first-fence-counts": "the first fence of a timeline in a partition is F, whoever wrote it; later ones are void",
    "undo-later-deltas": "the undo covers the keys of every version after the base, not only those of the log",
    "rollback-by-swap": "a rollback commits against the ref that its undo was computed from; else it is computed anew",
    "abandon-moves-ref": "abandoning is a move of the ref, so that it and the commit of the rollback exclude each other",
    "skip-dead-ranges": "every replay across an older fence skips [cut, F)",
    "dead-by-table": "the dead range of a rollback of one table is dead for rows of that table only",
    "dead-rows-in-sequence": "rows that a rollback of one table took back still move the readers' (term, seq)",
    "others-from-live": "what a rollback of one table leaves alone goes on from the live version, not from the base",
    # the dense slice
    "dense-barrier": "no marker comes between the announcements of one dense slice",
    "dense-in-all": "a dense slice counts when its announcement has passed in every partition",
    "dense-before-cuts": "a rollback goes back to the newest dense slice announced before the cut in every partition",
    # replicas
    "readers-in-positions": "positions carry, per partition, the (term, seq) of every publisher at the offset",
    "gaps-end": "a reader held at a gap goes on where a newer term of that publisher, or a fence, is in sight",
    "void-fences": "the fence of an abandoned timeline is void: what follows it counts as though it were not there",
    "base-before-undo": "a replica adopts the deltas up to the base of a rollback before it applies the undo",
    "older-undo-first": "a replica goes through rollbacks in commit order; it never skips an older undo",
}
