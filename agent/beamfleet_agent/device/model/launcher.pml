/* The protocol between launcher, heart, agent, init and power, for spin. README.md beside it is the prose.
 *
 * One step of this model is what nobody can see half done: a rename, a sync, a look. Before each step of the launcher
 * the power may go and the launcher may be killed (may_end). A file has two copies: `seen` is what processes read,
 * `disk` is what is durable; after a power cut either may be what is found, file by file.
 * Time is not modelled: a deadline may pass at any moment once it is set, and passes at last.
 */
#ifndef FAULTS
#define FAULTS 2                /* power cuts, kills, crashes of a good release, failed writes, hooks that say 21 */
#endif
#ifndef ASKS
#define ASKS 2                  /* requests of the agent, at most 3 */
#endif
#ifndef RESPAWNED
#define RESPAWNED 1             /* 0: nobody but heart starts the launcher again */
#endif
#ifndef HOOKS
#define HOOKS 1                 /* 0: the owner has none, so none are owed */
#endif
#define max_trial_boots 2
#define max_boots 2
#define max_power_losses 2
#define NONE 0                  /* slots: none, and two releases */
#define A 1
#define B 2
#define NO_VM 2                 /* 0 and 1 are the two VMs that there may be */

mtype = { none, trial, committed, reverted, fallback }          /* phase */
mtype = { swap, confirm, rollback, stop, start, restart }       /* verbs of requests */
mtype = { nothing, post_swap, commit_, revert_ }                /* due, point */
mtype = { clean, this_boot, earlier_boot }                      /* boot_id */
mtype = { gone, forked, noted, ours, running, ended }   /* stage of a VM: no vm.pid yet, written, ... */
mtype = { nobody, waits, told, killed }         /* its keeper: none of ours, alive, ended with exit.N, without */

typedef Boot {
  byte slot, previous, attempt, boots, power_losses, starts, failed, failed_attempt, last_request;
  mtype phase, due, boot_id;
  bit stopped, spent            /* spent: the cause in `failed` is evidence */
}
typedef Request { mtype verb; byte id, try; bit seen, disk }
typedef Vm { mtype stage, keeper; byte slot; bit started }

Boot seen, disk, nothing_read;  /* boot/state; and the memory of a launcher that has not read it */
byte current;
Request requests[4];
byte number;                    /* of the request that the agent is filing */
byte data;                      /* the release whose hooks prepared data/ last */

Vm vms[2];                      /* with started.N and exit.N: N is the index, which is used again only after its end */
byte vm_pid = NO_VM;
byte lock;                      /* launcher.lock: 0, or who holds it */
mtype point;                    /* the hooks that run, for which release, what they said, whether orphans */
byte hook_to, hook_status;
bit hook_orphan, doorbell, wanted;

byte faults = FAULTS, asked;
byte bad;                       /* the release that does not work, if any */
byte kept;                      /* the release that was committed last, or stands in for it */
byte tries;                     /* starts, or kills of the launcher, since a release was started */
bit unwritten;                  /* a VM was once started though its start could not be written */

#define up(i) (vms[i].stage == running)
#define known(i) (vm_pid == i && (vms[i].stage == noted || vms[i].stage == ours))
#define broken(i) (up(i) && vms[i].slot == bad)
#define free(i) (vms[i].stage == gone && vms[i].keeper == nobody)
#define fault faults > 0 -> faults--
#define more_tries tries = (tries < max_boots -> tries + 1 : tries)
#define end fault; more_tries; goto died :: fault; goto off :: broken(0) || broken(1) -> goto off
#define may_end if :: true :: end fi

inline copy(to, from) {
  to.slot = from.slot; to.previous = from.previous; to.attempt = from.attempt; to.boots = from.boots;
  to.power_losses = from.power_losses; to.starts = from.starts; to.failed = from.failed;
  to.failed_attempt = from.failed_attempt; to.last_request = from.last_request; to.phase = from.phase;
  to.due = from.due; to.boot_id = from.boot_id; to.stopped = from.stopped; to.spent = from.spent
}

/* --- power -------------------------------------------------------------------------------------------------------- */

inline durable() {              /* what was renamed is on disk; a committed release is never lost */
  d_step {
    copy(disk, seen);
    if
    :: disk.phase == committed -> assert(disk.slot != bad); kept = disk.slot
    :: disk.phase == fallback && disk.slot != kept ->
      assert(disk.slot != NONE && disk.failed == kept && tries >= max_boots); kept = disk.slot
    :: else
    fi;
    assert(kept == NONE || disk.slot == kept || (disk.phase == trial && disk.previous == kept))
  }
}

inline either(a, b) { if :: a == b :: a != b -> a = b :: a != b -> b = a fi }

inline cut() {                  /* the power goes, and comes again: everybody has ended, run/ is empty */
  atomic {
    if :: copy(seen, disk) :: durable() fi;
    if :: disk.boot_id == this_boot -> disk.boot_id = earlier_boot :: else fi;
    seen.boot_id = disk.boot_id;
    either(requests[1].seen, requests[1].disk);
    either(requests[2].seen, requests[2].disk);
    either(requests[3].seen, requests[3].disk);
    d_step {
      vms[0].stage = gone; vms[0].keeper = nobody; vms[0].slot = NONE; vms[0].started = 0;
      vms[1].stage = gone; vms[1].keeper = nobody; vms[1].slot = NONE; vms[1].started = 0;
      vm_pid = NO_VM; doorbell = 0; wanted = 1;
      point = nothing; hook_to = NONE; hook_status = 0; hook_orphan = 0;
      number = 0
    }
  }
}

/* --- the launcher: state, rules ----------------------------------------------------------------------------------- */

inline write_state() {          /* two steps: the rename, in an atomic sequence of the caller, and sync_state */
  if
  :: dirty = 0; copy(seen, my)
  :: fault; dirty = 1
  :: fault; dirty = 1; copy(seen, my)
  fi
}
inline sync_state() { atomic { may_end; if :: !dirty -> durable() :: else fi } }

inline owe(hooks_of) { my.due = (HOOKS -> hooks_of : nothing) }

inline swap_to(to, attempt_) {
  my.previous = my.slot; my.slot = to; my.attempt = attempt_; my.phase = trial; my.boots = 0; my.power_losses = 0;
  owe(post_swap); late = 0; counted = 0
}

inline go_back(phase_, evidence) {
  my.failed = my.slot; my.failed_attempt = my.attempt; my.spent = evidence; my.phase = phase_; my.slot = my.previous;
  my.previous = NONE; my.boots = 0; owe(revert_); late = 0; counted = 0
}
inline revert(evidence) { go_back(reverted, evidence) }

#define asks(what) (requests[n].verb == what)
#define of_trial (my.phase == trial && my.slot == requests[n].id && my.attempt == requests[n].try)
#define quarantined (my.failed == requests[n].id && my.failed_attempt == requests[n].try && my.spent)

inline request() {
  if
  :: asks(swap) && my.phase != trial && my.slot != requests[n].id && !quarantined ->
    swap_to(requests[n].id, requests[n].try)
  :: asks(confirm) && of_trial && vm != NO_VM && vms[vm].started ->
    my.phase = committed; my.boots = 0; owe(commit_); late = 0
  :: asks(rollback) && my.phase == trial -> revert(1)
  :: asks(rollback) && my.phase != trial && my.previous != NONE -> swap_to(my.previous, 0)
  :: asks(stop) -> my.stopped = 1
  :: asks(restart) && my.phase != trial && vm != NO_VM && my.slot == requests[n].id && vm == requests[n].try ->
    my.boots = 0; again = 1
  :: asks(start) && my.stopped -> my.stopped = 0; my.boots = 0; counted = 0
  :: else                       /* refused, or it is so already */
  fi
}

/* --- the launcher itself ------------------------------------------------------------------------------------------ */

#define vm_ended (vm != NO_VM && (vms[vm].keeper == told || vms[vm].keeper == killed))
#define hook_ended (hook != nothing && point == nothing)
#define asked_for (requests[1].seen || requests[2].seen || requests[3].seen)
#define wants_vm (vm == NO_VM && !my.stopped && my.slot != NONE)
#define hooks_next (my.due == revert_ || (my.due == post_swap && !dirty))
#define can_start (wants_vm && current == my.slot)

inline strangers() {            /* every VM that can be seen: until no more is */
  atomic {
    may_end;
    if :: up(0) || known(0) -> vms[0].stage = ended :: else fi;
    if :: up(1) || known(1) -> vms[1].stage = ended :: else fi
  }
}

inline reap() {                 /* our keeper has ended; if it told nothing, its VM may still be there */
  if
  :: vms[vm].keeper == told -> vms[vm].keeper = nobody
  :: atomic { vms[vm].keeper == killed -> vms[vm].keeper = nobody }; strangers()
  fi
}

inline count_start(next) {      /* in a trial what cannot be counted counts as reached; then sync_state */
  my.starts = next; my.boots = (my.boots < max_boots -> my.boots + 1 : my.boots);
  write_state();
  if :: dirty && my.phase == trial -> my.boots--; counted = 0 :: else -> counted = 1 fi
}

inline ask_to_end() {           /* the first part of stop_vm: hooks and the VM, if there is one */
  atomic {
    may_end;
    vms[0].started = 0; vms[1].started = 0;
    if :: point != nothing -> point = nothing; hook_to = NONE; hook_status = 21; doorbell = 1 :: else fi
  };
  if
  :: atomic { vm == NO_VM -> skip }
  :: atomic { vm != NO_VM ->
      may_end;
      if
      :: vms[vm].keeper == waits && vms[vm].stage != gone -> vms[vm].stage = ended
      :: vms[vm].keeper == waits && up(vm) -> vms[vm].keeper = killed     /* it took too long */
      :: vms[vm].keeper != waits
      :: vms[vm].keeper == waits && vms[vm].stage == gone
      fi }
  fi
}

inline until_ended() {          /* the last part of stop_vm */
  if
  :: atomic { vm == NO_VM -> skip }
  :: vm != NO_VM -> reap(); atomic { vm = NO_VM; doorbell = 1 }
  fi
}

#define countable (vm != NO_VM && !my.stopped && my.slot != NONE && free(1 - vm) && starts_next)
#define starts_next (my.due == nothing || my.due == commit_)

inline stop_vm() {
  ask_to_end();
  if                            /* what can be done while it ends */
  :: atomic { vm != NO_VM && my.slot != NONE -> may_end; current = my.slot }
  :: atomic { vm == NO_VM || my.slot == NONE -> skip }
  fi;
  if
  :: atomic { countable -> may_end; count_start(1 - vm) }; sync_state()
  :: atomic { !countable -> skip }
  fi;
  until_ended()
}

proctype launcher(byte me) {
  Boot my;
  byte vm = NO_VM, n, was;
  mtype hook = nothing;
  bit leaving, dirty, late, counted, again;
  d_step { copy(my, nothing_read) };
end_idle:
  atomic {
    wanted && (me == 1 || lock) -> wanted = 0;
    if :: lock == 0 -> lock = me :: else -> goto end_idle fi
  };
  atomic {                      /* strangers: an earlier launcher's hooks first */
    may_end;
    if :: point != nothing && hook_orphan -> point = nothing; hook_to = NONE; hook_orphan = 0 :: else fi
  };
  strangers();
  atomic {
    may_end;
    doorbell = 0; copy(my, seen); dirty = 1;
    if                          /* note_boot */
    :: my.boot_id == this_boot -> if :: vms[my.starts].started && my.phase != trial -> my.boots = 0 :: else fi
    :: my.boot_id != this_boot && my.boots > 0 -> my.boots--
    :: else
    fi;
    if :: my.boot_id == earlier_boot && my.power_losses < max_power_losses -> my.power_losses++ :: else fi;
    my.boot_id = this_boot;
    if
    :: my.phase == trial && (my.boots >= max_trial_boots || my.power_losses >= max_power_losses) -> revert(1)
    :: else
    fi
  };
loop:
  if
  :: vm_ended ->                                                  /* handle_exit */
    reap();
    atomic {
      may_end;
      if :: vms[vm].started && my.phase != trial -> my.boots = 0 :: else fi;
      vm = NO_VM;
      if
      :: my.phase == trial && my.boots >= max_trial_boots -> revert(1); dirty = 1
      :: my.phase != trial && my.phase != fallback && my.boots >= max_boots && my.previous != NONE ->
        go_back(fallback, 1); dirty = 1
      :: else
      fi;
      goto loop
    }
  :: atomic { !vm_ended && hook_ended ->                          /* handle_hook */
      may_end;
      if
      :: hook == my.due && (hook_status == 0 || (hook == commit_ && hook_status != 21)) ->
        my.due = nothing; if :: hook == commit_ -> dirty = 1 :: else fi
      :: hook == my.due && hook == post_swap && hook_status == 1 -> revert(1); dirty = 1
      :: else                   /* 21, or it is owed no more */
      fi;
      hook = nothing; hook_status = 0; goto loop }
  :: atomic { !vm_ended && !hook_ended && dirty -> may_end; write_state() };
    sync_state();
    if :: dirty -> goto act :: !dirty -> goto loop fi
  :: atomic { !vm_ended && !hook_ended && !dirty && asked_for ->  /* handle_requests, in the order of their numbers */
      may_end;
      n = (requests[1].seen -> 1 : (requests[2].seen -> 2 : 3));
      if
      :: n > my.last_request ->
        was = my.slot + 4 * my.stopped;
        request();
        my.last_request = n; write_state();
        if :: dirty -> copy(my, seen); again = 0 :: else fi;
        was = (was != my.slot + 4 * my.stopped || again); again = 0
      :: else -> goto answered
      fi };
    sync_state();
answered:
    atomic {
      if
      :: !dirty ->
        may_end;
        assert(disk.last_request >= n);
        requests[n].seen = 0; requests[n].verb = 0; requests[n].id = 0; requests[n].try = 0
      :: else
      fi;
      n = 0
    };
    if
    :: atomic { was -> was = 0 }; stop_vm()
    :: atomic { !was -> skip }
    fi;
    if :: dirty -> goto act :: !dirty -> goto loop fi
  :: atomic { !vm_ended && !hook_ended && !dirty && !asked_for -> goto act }
  fi;
act:
  atomic {
    if
    :: leaving -> goto leave
    :: !leaving && my.phase == trial && late -> may_end; revert(!vms[my.starts].started); write_state(); goto settle
    :: else ->
      if
      :: wants_vm && current != my.slot ->
        may_end;
        assert(seen.slot == my.slot || dirty);          /* never ahead of the state */
        current = my.slot; goto loop
      :: hook == nothing && ((my.due == commit_ && !wants_vm) || (can_start && hooks_next)) ->
        may_end;                /* start_hooks */
        assert(point == nothing);
        hook = my.due; point = my.due; hook_to = my.slot
      :: can_start && (hook == nothing -> starts_next : hook == commit_ && my.due == commit_) &&
          (free(0) || free(1)) ->
        if :: counted -> goto counted_already :: else fi;
        may_end;                /* start_vm: its count is durable before it is there */
        count_start((free(0) -> 0 : 1));
        goto start_vm_
      :: else
      fi
    fi;
    assert(vm == NO_VM || vms[vm].stage == gone || (my.slot == vms[vm].slot && !my.stopped));
end_rest:
    if                          /* rest */
    :: doorbell -> doorbell = 0
    :: dirty || (wants_vm && hook == nothing)           /* a timer */
    :: my.phase == trial -> late = 1
    :: fault; leaving = 1
    :: end
    fi;
    goto loop
  };
start_vm_:
  sync_state();
counted_already:
  atomic {
    may_end;
    if
    :: !counted -> revert(0)
    :: counted ->
      unwritten = unwritten || dirty;
      assert((disk.slot == my.slot && disk.boots > 0) || unwritten);             /* counted */
      assert((current == my.slot && (data == my.slot || !HOOKS)) || unwritten); /* and prepared */
      assert(my.slot != bad || disk.phase == trial);
      vms[0].started = 0; vms[1].started = 0;
      vm = my.starts; vms[vm].slot = my.slot; vms[vm].keeper = waits; vms[vm].stage = forked; vm_pid = NO_VM;
      counted = 0; more_tries
    fi;
    goto loop
  };
settle:
  sync_state(); stop_vm(); goto loop;
leave:
  ask_to_end(); until_ended();
  atomic { may_end; my.boot_id = clean; write_state() };
  sync_state();
off:
  cut();
died:
  atomic {                      /* init, or heart, starts it again */
    lock = 0; if :: RESPAWNED -> wanted = 1 :: else fi;
    if :: vms[0].keeper != nobody -> vms[0].keeper = nobody :: else fi;
    if :: vms[1].keeper != nobody -> vms[1].keeper = nobody :: else fi;
    if :: point != nothing -> hook_orphan = 1 :: else fi;
    vm = NO_VM; n = 0; was = 0; hook = nothing; hook_status = 0; leaving = 0; dirty = 0; late = 0; counted = 0;
    copy(my, nothing_read); goto end_idle
  }
}

/* --- its children: a VM with its keeper, and heart; hooks --------------------------------------------------------- */

proctype vm_and_heart(byte me) {
end_gone:
  do
  :: atomic { vms[me].stage == forked ->                          /* vm.pid is made new, never overwritten */
      if :: vm_pid == NO_VM -> vm_pid = me; vms[me].stage = noted :: else -> vms[me].stage = ended fi }
  :: atomic { vms[me].stage == noted -> vms[me].stage = (vms[me].keeper == nobody -> ended : ours) }
  :: d_step { vms[me].stage == ours -> vms[me].stage = running; assert(!up(1 - me)) }
  :: d_step { up(me) && !vms[me].started ->
      vms[me].started = 1; if :: disk.phase != trial -> tries = 0 :: else fi }
  :: atomic { up(me) && vms[me].slot == bad -> vms[me].stage = ended }
  :: atomic { up(me) && fault; vms[me].stage = ended }            /* crash, halt, hang until heart kills it */
  :: atomic { vms[me].stage == ended ->
      if :: !RESPAWNED -> wanted = 1 :: true fi;                  /* heart, if it was not told to stop */
      if :: vm_pid == me -> vm_pid = NO_VM :: else fi;
      vms[me].stage = gone; vms[me].slot = NONE }
  :: atomic { vms[me].stage == gone && vms[me].keeper == waits -> vms[me].keeper = told; doorbell = 1 }
  :: atomic { vms[me].keeper == waits && fault; vms[me].keeper = killed; doorbell = 1 }
  od
}

proctype hooks() {
end_hooks:
  do
  :: atomic { point != nothing ->
      if
      :: if :: point != commit_ -> data = hook_to :: else fi; hook_status = 0
      :: point == post_swap && hook_to == bad -> hook_status = 1
      :: fault; hook_status = 21
      fi;
      point = nothing; hook_to = NONE;
      if :: hook_orphan -> hook_status = 0; hook_orphan = 0 :: else -> doorbell = 1 fi }
  od
}

/* --- the agent ---------------------------------------------------------------------------------------------------- */

#define healthy (seen.phase == trial && up(seen.starts) && vms[seen.starts].started && vms[seen.starts].slot != bad)

proctype agent() {
end_agent:
  do
  :: atomic { number == 0 && asked < ASKS ->                      /* file one: temporary file, rename */
      asked++;
      number = seen.last_request + 1;
      do :: requests[number].seen -> number++ :: else -> break od;
      if
      :: requests[number].verb = swap;
        if :: requests[number].id = A :: requests[number].id = B fi;
        requests[number].try = (seen.failed == requests[number].id && seen.failed_attempt == 1 -> 2 : 1)
      :: healthy ->
        requests[number].verb = confirm; requests[number].id = seen.slot; requests[number].try = seen.attempt
      :: requests[number].verb = rollback
      :: !seen.stopped -> requests[number].verb = stop
      :: seen.stopped -> requests[number].verb = start
      :: seen.phase != trial && up(seen.starts) ->                /* a probe of the release failed */
        requests[number].verb = restart; requests[number].id = seen.slot; requests[number].try = seen.starts
      fi;
      requests[number].disk = 0; requests[number].seen = 1 }
  /* sync, ring */
  :: atomic { number != 0 -> requests[number].disk = requests[number].seen; number = 0; doorbell = 1 }
  od
}

init {
  atomic {
    nothing_read.phase = none; nothing_read.due = nothing; nothing_read.boot_id = clean; copy(seen, nothing_read);
    vms[0].stage = gone; vms[0].keeper = nobody; vms[1].stage = gone; vms[1].keeper = nobody; point = nothing;
    wanted = 1;
    if :: bad = NONE :: bad = B fi;
    if
    :: true                                     /* nothing was ever installed */
    :: seen.slot = A; seen.phase = committed; seen.attempt = 1
    :: bad == NONE -> seen.slot = A; seen.phase = committed; seen.attempt = 1; seen.previous = B
    :: seen.slot = B; seen.phase = trial; seen.attempt = 1; seen.previous = A; seen.due = (HOOKS -> post_swap : nothing)
    fi;
    current = (seen.phase == trial -> A : seen.slot); data = current; kept = current; durable();
    run launcher(1); run launcher(2); run vm_and_heart(0); run vm_and_heart(1); run hooks(); run agent()
  }
}

ltl again { []<> (up(0) || up(1) || seen.stopped || seen.slot == NONE) }
ltl ends { []<> (seen.phase != trial) }
