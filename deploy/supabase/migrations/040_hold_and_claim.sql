-- From the moment a generator has a task until it may work on it, and how it keeps the session.
--
-- A holder is one delivery of one task: its name is unique. Each function may be called again by the same
-- holder after a lost answer and then says the same.

-- Takes note of a task and of who has it; the session stays as it is and no attempt is counted.
-- held | settled | held_elsewhere | session_not_found | owner_mismatch
create or replace function public.generation_hold(p_task jsonb, p_holder text, p_lease_seconds integer)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_channel text := p_task ->> 'channel';
  v_session_id uuid := (p_task ->> 'session_id')::uuid;
  v_owner_id uuid;
  v_session record;
  v_row public.generation_ledger;
  v_now timestamptz;
begin
  select * into v_session from generation_private.read_session(v_channel, v_session_id, 'none');
  v_owner_id := (p_task ->> case v_channel when 'b2c' then 'user_id' else 'store_id' end)::uuid;
  if v_session.status is not null and v_session.owner_id is distinct from v_owner_id then
    return generation_private.answer_unknown('owner_mismatch', v_channel, v_session_id);
  end if;

  if not generation_private.is_settled(v_session.status) then
    insert into public.generation_ledger
      (channel, session_id, owner_id, task, request_id, holder, lease_expires_at, held_at)
    values (
      v_channel, v_session_id, v_session.owner_id, p_task, p_task ->> 'request_id', p_holder,
      clock_timestamp() + make_interval(secs => p_lease_seconds), clock_timestamp()
    )
    on conflict do nothing;
  end if;
  v_row := generation_private.lock_row(v_channel, v_session_id);

  if v_row.channel is null then
    return generation_private.answer_unknown(
      case when v_session.status is null then 'session_not_found' else 'settled' end,
      v_channel, v_session_id, v_session.status
    );
  end if;
  if v_row.state <> 'settled' then
    v_row := generation_private.settle_if_overtaken(v_row);
  end if;
  if v_row.state = 'settled' then
    return generation_private.answer(
      case v_row.settled_by when 'gone' then 'session_not_found' else 'settled' end, v_row
    );
  end if;

  v_now := clock_timestamp();
  if v_row.holder is distinct from p_holder then
    if v_row.holder is not null and not v_row.recovering and v_row.lease_expires_at > v_now then
      return generation_private.answer('held_elsewhere', v_row);
    end if;
    -- The newer delivery carries the fresher addresses. An attempt that was under way keeps its number, but
    -- not its holder: its token is no longer good.
    update public.generation_ledger
       set holder = p_holder, state = 'waiting', deadline_at = null,
           holders_lost = holders_lost + (holder is not null)::integer,
           task = p_task, request_id = p_task ->> 'request_id'
     where channel = v_channel and session_id = v_session_id;
  end if;
  update public.generation_ledger
     set lease_expires_at = v_now + make_interval(secs => p_lease_seconds), recovering = false
   where channel = v_channel and session_id = v_session_id
  returning * into v_row;
  return generation_private.answer('held', v_row) || jsonb_build_object(
    'status', v_session.status, 'shopper_email', v_session.shopper_email,
    'postponed', v_row.postponed, 'holders_lost', v_row.holders_lost
  );
end
$$;

-- A worker from before sessions could be cancelled calls it without the last argument.
drop function if exists public.generation_claim(text, uuid, text, integer, integer, integer);

-- Begins an attempt: the session is processing, the deadline runs, the attempt is counted.
-- p_call_begins: the caller calls the provider next, so that the session cannot be cancelled from here on.
-- claimed | poison (claimed, but too often before: only to be settled) | settled | lost | not_due
create or replace function public.generation_claim(
  p_channel text,
  p_session_id uuid,
  p_holder text,
  p_lease_seconds integer,
  p_deadline_seconds integer,
  p_max_attempts integer,
  p_call_begins boolean default true
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_now timestamptz;
begin
  if v_row.state <> 'settled' then
    v_row := generation_private.settle_if_overtaken(v_row);
  end if;
  v_now := clock_timestamp();
  case
    when v_row.channel is null then
      return generation_private.answer_unknown('lost', p_channel, p_session_id);
    when v_row.state = 'settled' then
      return generation_private.answer('settled', v_row);
    when v_row.holder <> p_holder and not v_row.recovering and v_row.lease_expires_at > v_now then
      return generation_private.answer('lost', v_row);
    when v_row.holder = p_holder and v_row.state = 'working' then
      -- The answer to the first call was lost.
      update public.generation_ledger
         set lease_expires_at = v_now + make_interval(secs => p_lease_seconds), recovering = false
       where channel = p_channel and session_id = p_session_id
      returning * into v_row;
    when v_row.due_at > v_now then
      return generation_private.answer('not_due', v_row);
    else
      update public.generation_ledger
         set state = 'working', attempt = attempt + 1, holder = p_holder, recovering = false,
             claimed_at = v_now, due_at = null,
             call_begun_at = coalesce(call_begun_at, case when p_call_begins then v_now end),
             deadline_at = v_now + make_interval(secs => p_deadline_seconds),
             lease_expires_at = v_now + make_interval(secs => p_lease_seconds)
       where channel = p_channel and session_id = p_session_id
      returning * into v_row;
      perform generation_private.set_status(p_channel, p_session_id, 'processing');
  end case;
  -- An attempt that ended in a rate limit or was postponed did not crash; only the others make a task suspicious.
  return generation_private.answer(
    case
      when v_row.attempt - v_row.rate_limit_retries - v_row.postponed > p_max_attempts then 'poison'
      else 'claimed'
    end,
    v_row
  );
end
$$;

-- Notes that the current attempt calls the provider next; from here on the session cannot be cancelled. For an
-- attempt whose claim did not say so.
-- begun | lost | settled
create or replace function public.generation_begin_call(
  p_channel text, p_session_id uuid, p_holder text, p_attempt integer
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(v_row, p_channel, p_session_id, p_holder, p_attempt);
begin
  if v_answer is not null then
    return v_answer;
  end if;
  v_row := generation_private.settle_if_overtaken(v_row);
  if v_row.state = 'settled' then
    return generation_private.answer('settled', v_row);
  end if;
  update public.generation_ledger
     set call_begun_at = coalesce(call_begun_at, clock_timestamp())
   where channel = p_channel and session_id = p_session_id
  returning * into v_row;
  return generation_private.answer('begun', v_row);
end
$$;

-- Extends the leases of these holders, waiting or working, expired or not, as long as nobody else has taken
-- the session. Answers the holders that still hold.
create or replace function public.generation_renew(p_holders text[], p_lease_seconds integer) returns jsonb
language plpgsql set search_path = ''
as $$
begin
  -- A row that is locked is just being decided about; it keeps its lease until the next round.
  update public.generation_ledger l
     set lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds), recovering = false
    from (
      select channel, session_id from public.generation_ledger
       where holder = any (p_holders)
       order by channel, session_id
         for no key update skip locked
    ) mine
   where l.channel = mine.channel and l.session_id = mine.session_id;
  return (
    select coalesce(jsonb_agg(l.holder order by l.holder), '[]')
      from public.generation_ledger l where l.holder = any (p_holders)
  );
end
$$;

-- A generator from before the periods were handed in calls it without the last argument.
drop function if exists public.generation_release(text, uuid, text);

-- Gives a session up before it was claimed; whoever comes next may hold it at once. Its message is on its way
-- back to the queue, so the sweep looks for it only after p_return_seconds.
-- released | lost | settled
create or replace function public.generation_release(
  p_channel text, p_session_id uuid, p_holder text, p_return_seconds integer default 60
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
begin
  case
    when v_row.state = 'settled' then
      return generation_private.answer('settled', v_row);
    when v_row.state = 'waiting' and v_row.holder = p_holder then
      update public.generation_ledger
         set holder = null, last_holder = p_holder, recovering = false,
             lease_expires_at = clock_timestamp() + make_interval(secs => p_return_seconds)
       where channel = p_channel and session_id = p_session_id
      returning * into v_row;
      return generation_private.answer('released', v_row);
    when v_row.state = 'waiting' and v_row.holder is null and v_row.last_holder = p_holder then
      return generation_private.answer('released', v_row);
    when v_row.channel is null then
      return generation_private.answer_unknown('lost', p_channel, p_session_id);
    else
      return generation_private.answer('lost', v_row);
  end case;
end
$$;

-- Whether an attempt is still the current one and its session still waits for a result; asked right before the
-- result is uploaded, so that none is stored for a user who was deleted meanwhile.
-- current | lost | settled | gone (there is no session row any more)
create or replace function public.generation_check(
  p_channel text, p_session_id uuid, p_holder text, p_attempt integer
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(v_row, p_channel, p_session_id, p_holder, p_attempt);
begin
  if v_answer is null then
    v_row := generation_private.settle_if_overtaken(v_row);
    v_answer := generation_private.answer(case v_row.state when 'settled' then 'settled' else 'current' end, v_row);
  end if;
  return case
    when v_row.settled_by = 'gone' then v_answer || jsonb_build_object('verdict', 'gone')
    else v_answer
  end;
end
$$;

revoke execute on function
  public.generation_hold(jsonb, text, integer),
  public.generation_claim(text, uuid, text, integer, integer, integer, boolean),
  public.generation_begin_call(text, uuid, text, integer),
  public.generation_renew(text[], integer),
  public.generation_release(text, uuid, text, integer),
  public.generation_check(text, uuid, text, integer)
from public, anon, authenticated;
grant execute on function
  public.generation_hold(jsonb, text, integer),
  public.generation_claim(text, uuid, text, integer, integer, integer, boolean),
  public.generation_begin_call(text, uuid, text, integer),
  public.generation_renew(text[], integer),
  public.generation_release(text, uuid, text, integer),
  public.generation_check(text, uuid, text, integer)
to service_role;
