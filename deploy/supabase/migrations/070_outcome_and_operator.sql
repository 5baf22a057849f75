-- What the owner of a session, the operator and the metrics may ask.

-- The session of this id, if whoever asks may know of it: the service role, or the user whose it is. Otherwise
-- channel is null, as for one that does not exist.
create or replace function generation_private.session_for_caller(
  p_session_id uuid, out channel text, out owner_id uuid, out status text, out request_id text
)
language plpgsql stable set search_path = ''
as $$
declare
  -- The role of the request; in a function of a definer's rights current_user is its owner.
  v_is_service boolean := coalesce(current_setting('role', true), '') = 'service_role';
begin
  foreach channel in array array['b2c', 'b2b'] loop
    select s.owner_id, s.status, s.request_id into owner_id, status, request_id
      from generation_private.read_session(channel, p_session_id, 'none') s;
    if status is not null and (v_is_service or (channel = 'b2c' and owner_id = (select auth.uid()))) then
      return;
    end if;
  end loop;
  channel := null; owner_id := null; status := null; request_id := null;
end
$$;
revoke execute on function generation_private.session_for_caller(uuid) from public, anon, authenticated;
grant execute on function generation_private.session_for_caller(uuid) to service_role;

-- What its owner is told of a refund.
create or replace function generation_private.refund_told(p_row public.generation_ledger) returns jsonb
language sql immutable set search_path = ''
as $$
  select jsonb_build_object(
    'given_back', coalesce(p_row.refund_state in ('refunded', 'already_refunded'), false),
    'refund', case when p_row.refund_state is not null then jsonb_build_object(
      'state', p_row.refund_state, 'amount', p_row.refund_amount, 'payer', p_row.refund_payer
    ) end
  )
$$;
revoke execute on function generation_private.refund_told(public.generation_ledger) from public, anon, authenticated;
grant execute on function generation_private.refund_told(public.generation_ledger) to service_role;

-- How a session stands, as data: to its owner (b2c) or to the service role. Null to anybody else, and for one
-- that does not exist.
create or replace function public.generation_outcome(p_session_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_session record;
  v_row public.generation_ledger;
begin
  select * into v_session from generation_private.session_for_caller(p_session_id);
  if v_session.channel is null then
    return null;
  end if;
  select * into v_row from public.generation_ledger l
   where l.channel = v_session.channel and l.session_id = p_session_id;
  return generation_private.refund_told(v_row) || jsonb_build_object(
    'session_id', p_session_id,
    'channel', v_session.channel,
    'status', v_session.status,
    'outcome', v_row.outcome,
    'error_code', v_row.error_code,
    'attempts', coalesce(v_row.attempt, 0),
    'rate_limit_retries', coalesce(v_row.rate_limit_retries, 0),
    'retry_at', v_row.due_at,
    'settled_at', v_row.settled_at,
    'given_back_at', v_row.refunded_at,
    'flagged', v_row.flagged_reason is not null
  );
end
$$;

-- Sessions that this project settled and whose credit the application's cron gave back on top of that: it does
-- not look at the status it overwrites. Nothing here can prevent it, so it is reported.
-- Read as a whole it costs as much as the cron ever gave back; paid_at lets a reader ask for the last days only.
-- In an application whose transactions bear no date all of them count as of now.
do $do$
declare
  v_dated boolean := exists (
    select from pg_catalog.pg_attribute
     where attrelid = 'public.credit_transactions'::regclass and attname = 'created_at' and not attisdropped
  );
begin
  execute format(
    $view$
      create or replace view generation_private.paid_by_cron_too as
      select l.channel, l.session_id,
             case l.outcome when 'completed' then 'completed_and_refunded_by_cron' else 'refunded_by_cron_too' end
               as reason,
             %s as paid_at
        from public.credit_transactions t
        join public.generation_ledger l
          on l.channel = 'b2c'
         and l.owner_id = t.user_id
         -- What follows the 28 characters 'Stuck job recovery: session ', if it has the shape of an id: by a
         -- regular expression the same takes a hundred times as long.
         and l.session_id = case
           when translate(substr(t.description, 29, 36), '123456789abcdef', '000000000000000')
             = '00000000-0000-0000-0000-000000000000' then substr(t.description, 29, 36)::uuid
         end
       where t.type = 'refund'
         and t.description like 'Stuck job recovery: session %%'
                  and l.looked_at is null
         and l.settled_by in ('worker', 'rejection', 'reaper', 'cancellation')
         and (l.outcome = 'completed' or l.refund_state = 'refunded')
    $view$,
    case when v_dated then 't.created_at::timestamptz' else 'now()' end
  );
end
$do$;
grant select on generation_private.paid_by_cron_too to service_role;

-- Sessions a person should look at and why, last settled first.
-- Answers [{channel, session_id, owner_id, reason, outcome, error_code, attempts, settled_by, settled_at,
-- refund: {state, amount, payer, error}}].
create or replace function public.generation_flagged(p_limit integer) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(f) order by f.settled_at desc), '[]')
    from (
      select l.channel, l.session_id, l.owner_id, r.reason, l.outcome, l.error_code,
             l.attempt as attempts, l.settled_by, l.settled_at,
             jsonb_build_object(
               'state', l.refund_state, 'amount', l.refund_amount,
               'payer', l.refund_payer, 'error', l.refund_error
             ) as refund
        from (
          (select channel, session_id, flagged_reason as reason
             from public.generation_ledger where flagged_reason is not null and looked_at is null
            order by settled_at desc limit p_limit)
          union all
          select channel, session_id, reason from generation_private.paid_by_cron_too
        ) r
        join public.generation_ledger l using (channel, session_id)
       order by l.settled_at desc
       limit p_limit
    ) f
$$;

-- Figures for the metrics, asked for on every sweep. Ages in seconds. What was set aside counts as flagged only.
-- Costs as much as there are unsettled and
-- flagged sessions and refunds by the cron in the last 30 days: what it paid before that is in generation_flagged.
-- Answers {waiting, working, retrying, expired, oldest_held_seconds, flagged, owed, paid_by_cron_too}.
create or replace function public.generation_backlog() returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
      'waiting', count(*) filter (where l.state = 'waiting'),
      'working', count(*) filter (where l.state = 'working'),
      'retrying', count(*) filter (where l.state = 'retrying'),
      'expired', count(*) filter (where l.lease_expires_at <= now()),
      'oldest_held_seconds',
        coalesce(round(extract(epoch from now() - min(l.held_at)), 3), 0)
    ) || (
      select jsonb_build_object(
        'flagged', count(*), 'owed', count(*) filter (where f.flagged_reason = 'refund_owed')
      )
        from public.generation_ledger f where f.flagged_reason is not null and f.looked_at is null
    ) || (
      select jsonb_build_object('paid_by_cron_too', count(*))
        from generation_private.paid_by_cron_too p where p.paid_at > now() - interval '30 days'
    )
    from public.generation_ledger l where l.state <> 'settled' and l.lease_expires_at < 'infinity'
$$;

-- Takes a session off the list of flagged ones; the note says what a person did about it. One that was set aside
-- is given back to the sweep, which tries again to settle it.
-- noted | tried_again | not_flagged (it is settled, and nobody was asked to look at it)
--       | session_not_found (none that is settled or set aside has this id)
create or replace function public.generation_looked_at(p_session_id uuid, p_note text) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_flagged boolean;
begin
  delete from public.generation_ledger
   where channel in ('b2c', 'b2b') -- the primary key begins with it
     and session_id = p_session_id and state <> 'settled' and flagged_reason = 'cannot_be_settled' and task is null;
  if found then
    return jsonb_build_object('verdict', 'tried_again');
  end if;
  update public.generation_ledger
     set lease_expires_at = clock_timestamp(), flagged_reason = null, refund_error = null
   where channel in ('b2c', 'b2b')
     and session_id = p_session_id and state <> 'settled' and flagged_reason = 'cannot_be_settled';
  if found then
    return jsonb_build_object('verdict', 'tried_again');
  end if;
  -- Whoever has looked may say more later.
  select l.flagged_reason is not null or l.looked_at is not null
         or exists (select from generation_private.paid_by_cron_too p where p.session_id = l.session_id)
    into v_flagged
    from public.generation_ledger l
   where l.channel in ('b2c', 'b2b') and l.session_id = p_session_id and l.state = 'settled';
  if not found then
    return jsonb_build_object('verdict', 'session_not_found');
  elsif not v_flagged then
    return jsonb_build_object('verdict', 'not_flagged');
  end if;
  update public.generation_ledger
     set looked_at = clock_timestamp(), looked_at_note = p_note
   where channel in ('b2c', 'b2b')
     and session_id = p_session_id and state = 'settled';
  return jsonb_build_object('verdict', 'noted');
end
$$;

revoke execute on function
  public.generation_outcome(uuid),
  public.generation_flagged(integer),
  public.generation_looked_at(uuid, text),
  public.generation_backlog()
from public, anon, authenticated;
grant execute on function
  public.generation_outcome(uuid),
  public.generation_flagged(integer),
  public.generation_looked_at(uuid, text),
  public.generation_backlog()
to service_role;
grant execute on function public.generation_outcome(uuid) to authenticated;
