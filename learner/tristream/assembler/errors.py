"""What the assembler refuses, in words for whoever called."""


class NotAttachedError(Exception):
    """No learner has said yet where it stands."""


class LedgerMismatchError(Exception):
    """The log says that groups were trained that the learner's checkpoint does not know."""


class StepRefusedError(Exception):
    """This step is not to be had: it is neither built and uncommitted, nor the next one."""


class SupersededLearnerError(Exception):
    """The caller's learner has an older epoch than another one."""
