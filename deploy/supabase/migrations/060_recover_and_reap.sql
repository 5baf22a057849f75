-- What periodic sweeps do, in any number of replicas at once: find what a killed process left behind, and end
-- what nothing will ever run. Neither waits for a lock below the ledger.

-- Sessions whose lease ran out, whatever their holder was doing. Each is offered to whoever asks first (the
-- old holder included, should it still live) and not looked at again before the grace is over, so that its
-- task is published once. The session itself stays as it is. Oldest first, at most 1,000.
-- Answers [{channel, session_id, task, attempt}].
create or replace function public.generation_recover(p_limit integer, p_grace_seconds integer) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_row public.generation_ledger;
  v_session record;
  v_found jsonb := '[]';
begin
  for v_row in
    select * from public.generation_ledger l
     where l.state <> 'settled' and l.lease_expires_at <= v_now
     order by l.lease_expires_at
     limit least(greatest(p_limit, 0), 1000)
       for no key update skip locked
  loop
    select * into v_session from generation_private.read_session(v_row.channel, v_row.session_id, 'none');
    if v_session.status is null or generation_private.is_settled(v_session.status) then
      perform generation_private.close_elsewhere(v_row, v_session.status, v_session.request_id);
    else
      update public.generation_ledger
         set recovering = true, lease_expires_at = v_now + make_interval(secs => p_grace_seconds)
       where channel = v_row.channel and session_id = v_row.session_id;
      v_found := v_found || jsonb_build_object(
        'channel', v_row.channel, 'session_id', v_row.session_id, 'task', v_row.task, 'attempt', v_row.attempt
      );
    end if;
  end loop;
  return v_found;
end
$$;

-- Whether a session that the ledger does not know is old enough to be stuck. One that is processing was begun
-- by a worker that knows no ledger, and gets 10 minutes more.
create or replace function generation_private.is_stuck(
  p_status text, p_created_at timestamptz, p_stuck_after_seconds integer
) returns boolean
language sql stable set search_path = ''
as $$
  select case
    when p_status in ('queued', 'pending') then
      p_created_at < clock_timestamp() - make_interval(secs => p_stuck_after_seconds)
    when p_status = 'processing' then
      p_created_at < clock_timestamp() - make_interval(secs => p_stuck_after_seconds + 600)
    else false
  end
$$;

-- Candidates for the reaper, oldest first: sessions unknown to the ledger and old enough to be stuck. One that
-- waits must also be older than p_created_before, when the oldest task still in any queue was made; so the
-- number looked at does not grow with the backlog.
-- Answers [{channel, session_id, status, created_at}].
create or replace function public.generation_orphans(
  p_created_before timestamptz, p_stuck_after_seconds integer, p_limit integer
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_stuck_before timestamptz := clock_timestamp() - make_interval(secs => p_stuck_after_seconds);
  v_channel text;
  v_found jsonb := '[]';
begin
  foreach v_channel in array array['b2c', 'b2b'] loop
    v_found := v_found || generation_private.orphans(
      v_channel, 'status in (''queued'', ''pending'')', least(p_created_before, v_stuck_before), p_limit
    ) || generation_private.orphans(
      v_channel, 'status = ''processing''', v_stuck_before - interval '600 seconds', p_limit
    );
  end loop;
  return (
    select coalesce(jsonb_agg(o.orphan order by o.created_at), '[]')
      from (
        select value as orphan, (value ->> 'created_at')::timestamptz as created_at
          from jsonb_array_elements(v_found)
         order by created_at
         limit p_limit
      ) o
  );
end
$$;

create or replace function generation_private.orphans(
  p_channel text, p_condition text, p_created_before timestamptz, p_limit integer
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_found jsonb;
begin
  execute format(
    'select coalesce(jsonb_agg(to_jsonb(o)), ''[]'')
       from (
         select %L as channel, s.id as session_id, s.status, s.created_at
           from %s s
          where s.%s and s.created_at < $1
            and not exists (
              select from public.generation_ledger l where l.channel = %L and l.session_id = s.id
            )
          order by s.created_at
          limit $2
       ) o',
    p_channel, generation_private.session_table(p_channel), p_condition, p_channel
  )
  into v_found using p_created_before, p_limit;
  return v_found;
end
$$;

-- Fails and refunds at most 100 orphans, looking at each once more before. One that is locked is left for the
-- next sweep (busy).
-- Answers one object per session: failed | settled | busy | too_young | session_not_found
create or replace function public.generation_reap(
  p_sessions jsonb, p_stuck_after_seconds integer, p_error_code text, p_message text
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_item record;
  v_entered jsonb := '[]';
  v_results jsonb := '[]';
begin
  if jsonb_array_length(p_sessions) > 100 then
    raise exception 'at most 100 sessions at once' using errcode = 'invalid_parameter_value';
  end if;
  -- All ledger rows first and always in the same order: no hold can begin from here on, and no other lock is
  -- taken while one of these is waited for.
  for v_item in
    select distinct s.channel, s.session_id
      from jsonb_to_recordset(p_sessions) as s (channel text, session_id uuid)
     order by s.channel, s.session_id
  loop
    v_entered := v_entered || generation_private.enter_orphan(
      v_item.channel, v_item.session_id, p_stuck_after_seconds
    );
  end loop;
  for v_item in
    select e.value as answer, e.value ->> 'channel' as channel, (e.value ->> 'session_id')::uuid as session_id
      from jsonb_array_elements(v_entered) e
  loop
    v_results := v_results || case v_item.answer ->> 'verdict'
      when 'entered' then generation_private.reap_one(
        v_item.channel, v_item.session_id, p_stuck_after_seconds, p_error_code, p_message
      )
      else v_item.answer
    end;
  end loop;
  return v_results;
end
$$;

-- Enters an orphan in the ledger (verdict entered), or says why it is none.
create or replace function generation_private.enter_orphan(
  p_channel text, p_session_id uuid, p_stuck_after_seconds integer
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_session record;
  v_row public.generation_ledger;
begin
  select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
  if generation_private.is_stuck(v_session.status, v_session.created_at, p_stuck_after_seconds) then
    insert into public.generation_ledger (channel, session_id, owner_id, request_id, lease_expires_at)
    values (p_channel, p_session_id, v_session.owner_id, v_session.request_id, clock_timestamp())
    on conflict do nothing;
    if found then
      return generation_private.answer_unknown('entered', p_channel, p_session_id);
    end if;
  end if;
  select * into v_row from public.generation_ledger l
   where l.channel = p_channel and l.session_id = p_session_id;
  return case
    when v_row.state = 'settled' then generation_private.answer('settled', v_row)
    when v_row.channel is not null then generation_private.answer('busy', v_row)
    else generation_private.answer_unknown(
      case
        when v_session.status is null then 'session_not_found'
        when generation_private.is_settled(v_session.status) then 'settled'
        else 'too_young'
      end,
      p_channel, p_session_id, v_session.status
    )
  end;
end
$$;

-- Fails an orphan that was just entered in the ledger, or takes it out again.
create or replace function generation_private.reap_one(
  p_channel text, p_session_id uuid, p_stuck_after_seconds integer, p_error_code text, p_message text
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_session record;
begin
  select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
  if generation_private.lock_payer(p_channel, v_session.owner_id, v_session.shopper_email, true) then
    select * into v_session from generation_private.read_session(p_channel, p_session_id, 'skip');
    if generation_private.is_stuck(v_session.status, v_session.created_at, p_stuck_after_seconds) then
      return generation_private.answer(
        'failed', generation_private.fail_session(v_row, 'reaper', p_error_code, p_message)
      );
    end if;
  end if;
  delete from public.generation_ledger where channel = p_channel and session_id = p_session_id;
  return generation_private.answer_unknown('busy', p_channel, p_session_id);
end
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
revoke execute on function
  public.generation_recover(integer, integer),
  public.generation_orphans(timestamptz, integer, integer),
  public.generation_reap(jsonb, integer, text, text)
from public, anon, authenticated;
grant execute on function
  public.generation_recover(integer, integer),
  public.generation_orphans(timestamptz, integer, integer),
  public.generation_reap(jsonb, integer, text, text)
to service_role;
