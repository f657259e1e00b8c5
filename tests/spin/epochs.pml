/* The configuration protocol of src/repl for two replicas, searched completely by spin.
 *
 * In the model: the record in etcd and its compare-and-swap (applied late, twice asked, answer lost), adoption of
 * epochs, elections by a backup and by a restarted primary, removal of a backup, a joiner that is
 * cut, counted and added, acknowledgements that arrive late, leases, crashes and restarts.
 * Checked: R1 (at each acknowledgement and each change of the record), R2 (one writer per epoch) and
 * R4 (nobody answers reads while another acts without it), in every reachable state.
 *
 * Left out: time. A lease is two facts: `held` (its holder may answer) and `bound` (its granter may not act
 * without the holder). Time passing is one step that ends both; the holder's may end earlier, the
 * granter's never does. A restarted replica is `waiting` in the same way. Suspicion is left out too: anybody
 * may seek at any time, which is more than the core does. Log records are the epoch of their writer.
 *
 * It begins with both in sync and replica 0 as the primary of epoch 1. Bounds: EPOCHS changes of the record, RECORDS per log, CRASHES in all. BUG=n plants a known bug (as in
 * docs/protocol.md: 1, 3, 4, 5, 6, 8) to show that the search would find it: tests/spin/run.sh does both. */
#ifndef EPOCHS
#define EPOCHS 4
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef BUG
#define BUG 0
#endif

#define BIT(r) (1 << (r))
#define BOTH   3

/* etcd */
byte etcd_epoch = 1, etcd_set = BOTH, etcd_primary = 0;
byte etcd_writer = 0; /* replica + 2 * incarnation of the writer */

/* the compare-and-swap of each replica on its way to etcd */
bool swap_sent[2];
byte swap_from[2], swap_set[2], swap_writer[2];

/* replicas: durable */
byte epoch[2] = {1, 1};             /* adopted */
byte length[2];
byte record[2 * RECORDS];           /* (replica, place): epoch of the record's writer */
/* replicas: lost in a crash */
bool alive[2] = {true, true};
bool known[2] = {true, true};       /* it has read the record of its epoch */
byte set[2] = {BOTH, BOTH};
byte primary[2];
bool won[2] = {true, false};
bool pending[2];                    /* a compare-and-swap without answer */
byte pending_set[2];
bool counted[2];                    /* as primary: the other one counts */
byte goal[2];                       /* what it must have before it is added */
bool following[2] = {false, true};  /* as backup: in a session with the primary of this epoch */
byte acked[2];                      /* as primary: what the other acknowledged in this session and epoch */
byte incarnation[2];
byte commits[2];                    /* committed, as this replica knows */
byte base[2];
/* an acknowledgement under way to replica r: its session's life is that of `following` */
bool ack_sent[2];
byte ack_length[2], ack_epoch[2];

/* leases: held[r]: r may answer by the other's grant of this epoch; bound[r]: r granted one */
bool held[2], bound[2], waiting[2];

byte crashes;
/* the truth */
byte committed;                     /* records that were ever acknowledged, and what they were */
byte truth[RECORDS];

#define REC(x, i)    record[(x) * RECORDS + (i)]
#define EFFECTIVE(x) (set[x] | (pending[x] -> pending_set[x] : 0) | (counted[x] -> BOTH : 0))
#define IN_SYNC(x)   (set[x] & BIT(x))
#define NEEDS(x)     (EFFECTIVE(x) & BIT(1 - (x))) /* the other one counts for x */
#define ACTS(x)      (alive[x] && known[x] && IN_SYNC(x) && !waiting[x] && (NEEDS(x) || !bound[x]))
#define SERVES(x)    (ACTS(x) && (won[x] -> commits[x] >= base[x] : following[x]) && \
                      (NEEDS(x) -> held[x] : true))

byte i;

/* Replica r has everything that was ever acknowledged. */
inline holds(r)
{
    assert(length[r] >= committed);
    i = 0;
    do
    :: i < committed -> assert(REC(r, i) == truth[i]); i++
    :: else -> break
    od;
    i = 0
}

/* Forget what belongs to a session in which r took part. */
inline end_session(r)
{
    following[0] = false; following[1] = false;
    acked[r] = 0; acked[1 - r] = 0;
    ack_sent[0] = false; ack_sent[1] = false;
    counted[r] = false; counted[1 - r] = false
}

/* r adopts what etcd says. */
inline adopt(r)
{
    if
    :: won[r] && etcd_writer == r + 2 * incarnation[r] && etcd_primary == r ->
        acked[r] = 0; ack_sent[r] = false; counted[r] = false; /* primary still: the session goes on */
        if
        :: !(etcd_set & BIT(1 - r)) -> following[1 - r] = false
        :: else
        fi
    :: else ->
        if
        :: known[r] && !won[r] && etcd_primary == primary[r] && etcd_primary == 1 - r &&
           (etcd_set & BIT(r) || !(set[r] & BIT(r))) -> ack_sent[1 - r] = false
        :: else -> following[r] = false; following[1 - r] = false;
                   acked[r] = 0; ack_sent[0] = false; ack_sent[1] = false; counted[r] = false
        fi;
        won[r] = (etcd_primary == r && etcd_writer == r + 2 * incarnation[r]);
#if BUG == 4
        won[r] = (etcd_primary == r);
#endif
        base[r] = length[r]
    fi;
    epoch[r] = etcd_epoch; set[r] = etcd_set; primary[r] = etcd_primary;
    known[r] = true; pending[r] = false; held[r] = false
}

inline ask(r, members)
{
    swap_sent[r] = true; swap_from[r] = epoch[r]; swap_set[r] = members;
    swap_writer[r] = r + 2 * incarnation[r];
    pending[r] = true; pending_set[r] = members
}

#define r _pid
active [2] proctype replica()
{
    do
    /* ---- etcd ---- */
    :: atomic { swap_sent[r] && swap_from[r] == etcd_epoch ->
        etcd_epoch = etcd_epoch + 1; etcd_set = swap_set[r]; etcd_primary = r;
        etcd_writer = swap_writer[r]; swap_sent[r] = false;
        if
        :: etcd_set & 1 -> holds(0)
        :: else
        fi;
        if
        :: etcd_set & 2 -> holds(1)
        :: else
        fi }
    :: atomic { swap_sent[r] -> swap_sent[r] = false } /* lost, or too late; nobody is told */
    :: atomic { alive[r] && pending[r] && !swap_sent[r] && etcd_epoch == epoch[r] &&
                swap_writer[r] == r + 2 * incarnation[r] ->
        swap_sent[r] = true } /* repeated, the same */
    :: atomic { alive[r] && etcd_epoch > epoch[r] -> adopt(r) } /* answer, poll, or told by the peer */
    :: atomic { alive[r] && !known[r] && etcd_epoch == epoch[r] -> adopt(r) }
#if BUG == 5
    :: atomic { alive[r] && pending[r] && etcd_epoch >= epoch[r] -> pending[r] = false }
#endif
    /* ---- elections: at any time ---- */
    :: atomic { alive[r] && known[r] && IN_SYNC(r) && !pending[r] && !swap_sent[r] &&
                epoch[r] < EPOCHS && set[r] == BOTH -> ask(r, BIT(r)) }
    :: atomic { alive[r] && known[r] && IN_SYNC(r) && !pending[r] && !swap_sent[r] &&
                epoch[r] < EPOCHS && set[r] == BIT(r) && !won[r] -> ask(r, BIT(r)) }
    /* ---- the log ---- */
    :: atomic { alive[r] && won[r] && length[r] < RECORDS ->
        assert(etcd_epoch > epoch[r] || etcd_writer == r + 2 * incarnation[r]); /* R2 */
        REC(r, length[r]) = epoch[r]; length[r]++ }
    :: atomic { alive[r] && alive[1 - r] && following[r] && won[1 - r] && epoch[r] == epoch[1 - r] &&
                length[r] < length[1 - r] ->
        REC(r, length[r]) = REC(1 - r, length[r]); length[r]++ }
    :: atomic { alive[r] && following[r] && (!ack_sent[1 - r] || ack_length[1 - r] < length[r]) ->
        ack_sent[1 - r] = true; ack_length[1 - r] = length[r]; ack_epoch[1 - r] = epoch[r] }
    :: atomic { alive[r] && ack_sent[r] ->
        if
        :: won[r] && ack_epoch[r] == epoch[r] && ack_length[r] > acked[r] -> acked[r] = ack_length[r]
        :: else
        fi;
        ack_sent[r] = false; ack_length[r] = 0; ack_epoch[r] = 0 }
    :: atomic { won[r] && ACTS(r) && commits[r] < length[r] &&
                (NEEDS(r) -> acked[r] > commits[r] || BUG == 6 : true) ->
        /* one more record is acknowledged */
        assert(NEEDS(r) || !SERVES(1 - r)); /* R4 */
        if
        :: commits[r] < committed -> assert(truth[commits[r]] == REC(r, commits[r]))
        :: else -> truth[committed] = REC(r, commits[r]); committed++
        fi;
        commits[r]++;
        if
        :: etcd_set & 1 -> holds(0)
        :: else
        fi;
        if
        :: etcd_set & 2 -> holds(1)
        :: else
        fi }
    /* ---- coming back ---- */
    :: atomic { alive[r] && alive[1 - r] && known[r] && known[1 - r] && !won[r] && won[1 - r] &&
                epoch[r] == epoch[1 - r] && !following[r] ->
        i = 0; /* the shared prefix: the same epoch at the same place */
#if BUG == 8
        i = (length[r] < length[1 - r] -> length[r] : length[1 - r]);
#else
        do
        :: i < length[r] && i < length[1 - r] && REC(r, i) == REC(1 - r, i) -> i++
        :: else -> break
        od;
#endif
        do
        :: length[r] > i -> length[r]--; REC(r, length[r]) = 0
        :: else -> break
        od;
        i = 0;
        if
        :: commits[r] > length[r] -> commits[r] = length[r]
        :: else
        fi;
        acked[1 - r] = 0; ack_sent[1 - r] = false; following[r] = true }
    :: atomic { won[r] && ACTS(r) && set[r] == BIT(r) && !pending[r] && !counted[r] &&
                following[1 - r] && held[r] ->
        counted[r] = true; goal[r] = (commits[r] > base[r] -> commits[r] : base[r]) }
    :: atomic { alive[r] && counted[r] && !pending[r] -> counted[r] = false; goal[r] = 0 }
    :: atomic { won[r] && alive[r] && counted[r] && !pending[r] && !swap_sent[r] && held[r] &&
                epoch[r] < EPOCHS &&
                ((acked[r] >= goal[r] && acked[r] >= commits[r]) || BUG == 1) -> ask(r, BOTH) }
    /* ---- leases ---- */
    :: atomic { alive[r] && alive[1 - r] && known[r] && known[1 - r] && epoch[r] == epoch[1 - r] &&
                (set[r] & BIT(1 - r)) && !held[1 - r] && !(pending[r] && !(pending_set[r] & BIT(1 - r))) ->
        bound[r] = true; held[1 - r] = true }
    :: atomic { held[r] -> held[r] = false }
    :: atomic { bound[r] || waiting[r] -> bound[r] = false; waiting[r] = false; held[1 - r] = false }
#if BUG == 3
    :: atomic { waiting[r] -> waiting[r] = false }
#endif
    /* ---- crashes ---- */
    :: atomic { alive[r] && crashes < CRASHES ->
        crashes++; alive[r] = false; known[r] = false; won[r] = false; pending[r] = false;
        set[r] = 0; primary[r] = 0; pending_set[r] = 0; goal[r] = 0; base[r] = 0;
        held[r] = false; bound[r] = false; waiting[r] = true; commits[r] = 0; end_session(r) }
    :: atomic { !alive[r] -> alive[r] = true; incarnation[r]++ }
    od
}
