"""Opposites that the guard knows. Data only.

A line has the words of one side, the line below it, behind a stroke, those of the other.
"""

from __future__ import annotations

from itertools import pairwise

_OPPOSED = """
    increase increases increased raise raises rise rises grow grew
    | decrease decreases decreased lower reduce reduces fall falls drop drops shrink
    up upward
    | down downward
    above over exceed exceeds exceeded more greater higher larger longer
    | below under less fewer lower smaller shorter beneath
    highest most maximum max largest biggest best top longest
    | lowest least minimum min smallest worst bottom shortest
    before until till prior
    | after since
    early earlier earliest
    | late later latest
    oldest older old
    | newest newer new young younger
    enable enabled activate allow grant unlock
    | disable disabled deactivate forbid deny revoke lock prevent block
    accept approve agree accepted
    | reject decline deny refuse rejected
    start begin begins starts open launch
    | stop end ends finish close quit
    add insert attach join
    | remove delete drop detach
    buy purchase
    | sell sold
    subscribe
    | unsubscribe
    deploy rollout
    | undeploy rollback revert
    schedule book arrange
    | cancel
    backup
    | restore
    encrypt
    | decrypt
    encode
    | decode
    upload
    | download
    import
    | export
    send sent
    | receive received
    read
    | write
    lend
    | borrow
    win winning
    | lose losing
    gain
    | lose loss
    love
    | hate
    like likes
    | dislike dislikes hate
    good better
    | bad worse evil
    advantage advantages benefit benefits pros
    | disadvantage disadvantages drawback drawbacks cons risks
    cheap cheaper cheapest inexpensive
    | expensive pricier dear
    fast faster fastest quick
    | slow slower slowest
    hot hotter warm warmer
    | cold colder cool cooler
    success successful succeed succeeds
    | failure failed fail fails unsuccessful
    positive
    | negative
    true real
    | false fake
    left
    | right
    north northern
    | south southern
    east eastern
    | west western
    inside indoor
    | outside outdoor
    first
    | last
    introvert introverts introverted
    | extrovert extroverts extroverted
    legal
    | illegal
    possible
    | impossible
    safe
    | unsafe dangerous harmful
    public
    | private
    rich
    | poor
    happy
    | sad unhappy
    married marry
    | divorce divorced single unmarried
    remember
    | forget
    beginner beginners junior
    | expert experts advanced senior
    install
    | uninstall
    connect
    | disconnect
    show unhide
    | hide
    expand
    | collapse
    push
    | pull
    ascending
    | descending
    debit
    | credit
    input
    | output
    merge
    | split
    primary
    | secondary
    internal
    | external
    arrive arrives arrival arriving
    | depart departs departure
    employer employers
    | employee employees
    buyer buyers
    | seller sellers
    teacher teachers
    | student students
    parent parents
    | child children kids
    """
OPPOSITES: tuple[tuple[frozenset[str], frozenset[str]], ...] = tuple(
    (frozenset(one), frozenset(other))
    for one, other in pairwise(line.lstrip("| ").split() for line in _OPPOSED.strip().splitlines())
)[::2]
"""Groups of words that turn a prompt round when one stands in the place of another."""
