-- What periodic sweeps do, in any number of replicas at once: find what a killed process left behind, and end
-- what nothing will ever run. Neither waits for a lock below the ledger. Each session is a savepoint of its own:
-- one that cannot be settled is set aside for a person and holds up no other.

-- A generator from before the periods were handed in calls it without the last argument.
drop function if exists public.generation_recover(integer, integer);

-- Sessions whose lease ran out at least p_margin_seconds ago by the database's clock, whatever their holder was
-- doing: a renewal that was sent in time may wait for the pooler, a lock or the disk before it counts. Each is
-- offered to whoever asks first (the old holder included, should it still live) and not looked at again before
-- the grace is over, so that its task is published once. The session itself stays as it is. Oldest first, at most 1,000.
-- Answers [{channel, session_id, task, attempt}].
create or replace function public.generation_recover(
  p_limit integer, p_grace_seconds integer, p_margin_seconds integer default 2
) returns jsonb
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
     where l.state <> 'settled' and l.lease_expires_at <= v_now - make_interval(secs => p_margin_seconds)
     order by l.lease_expires_at
     limit least(greatest(p_limit, 0), 1000)
       for no key update skip locked
  loop
    begin
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
    exception
      when transaction_rollback or lock_not_available or insufficient_resources then
        null; -- passes by itself: the next sweep finds it again
      when others then
        perform generation_private.set_aside(v_row, sqlstate);
    end;
  end loop;
  return v_found;
end
$$;

-- A generator from before the periods were handed in calls these without p_older_worker_seconds.
drop function if exists public.generation_orphans(timestamptz, integer, integer);
drop function if exists public.generation_reap(jsonb, integer, text, text);
drop function if exists public.generation_set_aside(text, uuid, integer, text);
drop function if exists generation_private.is_stuck(text, timestamptz, integer);
drop function if exists generation_private.enter_orphan(text, uuid, integer);
drop function if exists generation_private.reap_one(text, uuid, integer, text, text);

-- Whether a session that the ledger does not know is old enough to be stuck. One that is processing was begun
-- by a worker that knows no ledger, and gets p_older_worker_seconds more.
create or replace function generation_private.is_stuck(
  p_status text, p_created_at timestamptz, p_stuck_after_seconds integer, p_older_worker_seconds integer
) returns boolean
language sql stable set search_path = ''
as $$
  select case
    when p_status in ('queued', 'pending') then
      p_created_at < clock_timestamp() - make_interval(secs => p_stuck_after_seconds)
    when p_status = 'processing' then
      p_created_at < clock_timestamp() - make_interval(secs => p_stuck_after_seconds + p_older_worker_seconds)
    else false
  end
$$;

-- Candidates for the reaper, oldest first: sessions unknown to the ledger and old enough to be stuck. One that
-- waits must also be older than p_created_before, when the oldest task still in any queue was made; so the
-- number looked at does not grow with the backlog.
-- Answers [{channel, session_id, status, created_at}].
create or replace function public.generation_orphans(
  p_created_before timestamptz,
  p_stuck_after_seconds integer,
  p_limit integer,
  p_older_worker_seconds integer default 600
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
      v_channel, 'status = ''processing''',
      v_stuck_before - make_interval(secs => p_older_worker_seconds), p_limit
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
-- next sweep (busy). One that cannot be failed is set aside for a person (its SQLSTATE is `error`).
-- Answers one object per session: failed | settled | busy | too_young | session_not_found | set_aside
create or replace function public.generation_reap(
  p_sessions jsonb,
  p_stuck_after_seconds integer,
  p_error_code text,
  p_message text,
  p_older_worker_seconds integer default 600
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
      v_item.channel, v_item.session_id, p_stuck_after_seconds, p_older_worker_seconds
    );
  end loop;
  for v_item in
    select e.value as answer, e.value ->> 'channel' as channel, (e.value ->> 'session_id')::uuid as session_id
      from jsonb_array_elements(v_entered) e
  loop
    v_results := v_results || case v_item.answer ->> 'verdict'
      when 'entered' then generation_private.reap_one(
        v_item.channel, v_item.session_id, p_stuck_after_seconds, p_older_worker_seconds, p_error_code, p_message
      )
      else v_item.answer
    end;
  end loop;
  return v_results;
end
$$;

-- Enters an orphan in the ledger (verdict entered), or says why it is none.
create or replace function generation_private.enter_orphan(
  p_channel text, p_session_id uuid, p_stuck_after_seconds integer, p_older_worker_seconds integer
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_session record;
  v_row public.generation_ledger;
begin
  select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
  if generation_private.is_stuck(
    v_session.status, v_session.created_at, p_stuck_after_seconds, p_older_worker_seconds
  ) then
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

-- Fails an orphan that was just entered in the ledger, takes it out again, or sets it aside.
create or replace function generation_private.reap_one(
  p_channel text,
  p_session_id uuid,
  p_stuck_after_seconds integer,
  p_older_worker_seconds integer,
  p_error_code text,
  p_message text
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_session record;
begin
  begin
    select * into v_session from generation_private.lock_for_settling(p_channel, p_session_id, false);
    if generation_private.is_stuck(
      v_session.status, v_session.created_at, p_stuck_after_seconds, p_older_worker_seconds
    ) then
      return generation_private.answer(
        'failed', generation_private.fail_session(v_row, 'reaper', p_error_code, p_message)
      );
    end if;
  exception
    when transaction_rollback or lock_not_available or insufficient_resources then
      null; -- passes by itself
    when others then
      return generation_private.answer('set_aside', generation_private.set_aside(v_row, sqlstate))
        || jsonb_build_object('error', sqlstate);
  end;
  delete from public.generation_ledger where channel = p_channel and session_id = p_session_id;
  return generation_private.answer_unknown('busy', p_channel, p_session_id);
end
$$;

-- Sets one orphan aside that alone takes longer than a statement may: generation_reap was ended while it failed
-- it. p_error: SQLSTATE. Answers as generation_reap does for one session.
create or replace function public.generation_set_aside(
  p_channel text,
  p_session_id uuid,
  p_stuck_after_seconds integer,
  p_error text,
  p_older_worker_seconds integer default 600
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_answer jsonb := generation_private.enter_orphan(
    p_channel, p_session_id, p_stuck_after_seconds, p_older_worker_seconds
  );
begin
  if v_answer ->> 'verdict' <> 'entered' then
    return v_answer;
  end if;
  return generation_private.answer(
    'set_aside', generation_private.set_aside(generation_private.lock_row(p_channel, p_session_id), p_error)
  ) || jsonb_build_object('error', p_error);
end
$$;

-- Objects that an attempt may have stored for a session that ended without a result: the user was deleted, or
-- somebody else failed it. Nobody is ever shown them, so the sweep deletes them.
-- Answers [{channel, session_id, owner_id, since}], at most p_limit, oldest first.
create or replace function public.generation_unwanted_objects(p_limit integer) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(u) order by u.since), '[]')
    from (
      select channel, session_id, owner_id, object_unwanted_since as since
        from public.generation_ledger
       where object_unwanted_since is not null
       order by object_unwanted_since
       limit p_limit
    ) u
$$;

-- Takes note that these are deleted: [{channel, session_id, since}] as they were answered. One that was stored
-- again since then stays unwanted. Answers how many were noted.
create or replace function public.generation_objects_deleted(p_objects jsonb) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_noted integer;
begin
  update public.generation_ledger l
     set object_unwanted_since = null
    from jsonb_to_recordset(p_objects) as o (channel text, session_id uuid, since timestamptz)
   where l.channel = o.channel and l.session_id = o.session_id and l.object_unwanted_since = o.since;
  get diagnostics v_noted = row_count;
  return v_noted;
end
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
revoke execute on function
  public.generation_recover(integer, integer, integer),
  public.generation_orphans(timestamptz, integer, integer, integer),
  public.generation_reap(jsonb, integer, text, text, integer),
  public.generation_set_aside(text, uuid, integer, text, integer),
  public.generation_unwanted_objects(integer),
  public.generation_objects_deleted(jsonb)
from public, anon, authenticated;
grant execute on function
  public.generation_recover(integer, integer, integer),
  public.generation_orphans(timestamptz, integer, integer, integer),
  public.generation_reap(jsonb, integer, text, text, integer),
  public.generation_set_aside(text, uuid, integer, text, integer),
  public.generation_unwanted_objects(integer),
  public.generation_objects_deleted(jsonb)
to service_role;
