-- Webhooks: who is told of sessions, and what is still to be sent (the outbox).
--
-- An event is written in the transaction that it tells of: by a trigger on the ledger, when it counts a session's
-- first attempt and when it is closed. What somebody writes into a session row sends nothing then. Where no ledger
-- row will be closed (the application ended a session before a generator had it), a trigger on the session tables
-- writes an event of the end, and the ledger's replaces that one, should there be one later and it says something
-- else. Without an endpoint nothing is written. A generator claims what is due, sends it and reports; a row that it
-- claimed and never reported is due again after the lease. The outbox holds ids and codes. It never holds a link to a
-- picture: that is signed anew at each try, from the object's path.

create table if not exists public.generation_webhook_endpoints (
  id uuid primary key default gen_random_uuid(),
  -- Told of this store's sessions only; null: of all users' and stores'.
  store_id uuid,
  url text not null,
  -- Standard Webhooks: whsec_ and base64. After a change both sign until previous_secret_until.
  secret text not null check (secret like 'whsec\_%'),
  previous_secret text check (previous_secret like 'whsec\_%'),
  previous_secret_until timestamptz,
  created_at timestamptz not null default now(),
  -- Since when no delivery has succeeded though it was tried, null after a success.
  failing_since timestamptz,
  disabled_at timestamptz,
  -- gone: it answered 410. failing: nothing succeeded for days.
  disabled_reason text check (disabled_reason in ('operator', 'gone', 'failing')),
  constraint generation_webhook_endpoint_disabled check ((disabled_at is null) = (disabled_reason is null))
);

create table if not exists public.generation_webhook_outbox (
  -- Sent as webhook-id; the same at every try.
  id uuid primary key default gen_random_uuid(),
  -- Not a foreign key: an endpoint is disabled, never deleted, and a settling session waits for no lock on it.
  endpoint_id uuid not null,
  channel text not null check (channel in ('b2c', 'b2b')),
  session_id uuid not null,
  type text not null check (type in (
    'generation.processing', 'generation.completed', 'generation.failed', 'generation.cancelled'
  )),
  data jsonb not null,
  occurred_at timestamptz not null,
  -- Of the result, null where there is none.
  object_path text,
  created_at timestamptz not null default now(),
  -- Since when it is tried: it is given up a day later. An operator may begin anew.
  tried_since timestamptz not null default now(),
  attempts integer not null default 0,
  -- Null once it was delivered or given up.
  due_at timestamptz default now(),
  delivered_at timestamptz,
  given_up_at timestamptz,
  last_attempt_at timestamptz,
  last_status integer,
  last_error text,
  constraint generation_webhook_outbox_due
    check ((due_at is null) = (delivered_at is not null or given_up_at is not null))
);

-- One event when work on a session begins for the first time, and one when it ends.
create unique index if not exists generation_webhook_outbox_once_idx
  on public.generation_webhook_outbox (session_id, endpoint_id, (type = 'generation.processing'));
create index if not exists generation_webhook_outbox_due_idx
  on public.generation_webhook_outbox (endpoint_id, due_at) where due_at is not null;
create index if not exists generation_webhook_outbox_created_idx
  on public.generation_webhook_outbox (created_at);

-- When an answer of it, or that it gave none, was last reported.
alter table public.generation_webhook_endpoints add column if not exists last_tried_at timestamptz;

alter table public.generation_webhook_endpoints enable row level security;
alter table public.generation_webhook_outbox enable row level security;
revoke all on public.generation_webhook_endpoints, public.generation_webhook_outbox
  from public, anon, authenticated;
grant select, insert, update, delete on public.generation_webhook_endpoints, public.generation_webhook_outbox
  to service_role;

-- Writes an event for every endpoint that is told of this owner's sessions, unless it has one of that kind already.
create or replace function generation_private.write_webhook_event(
  p_channel text,
  p_session_id uuid,
  p_owner_id uuid,
  p_request_id text,
  p_type text,
  p_code text,
  p_attempts integer,
  p_given_back boolean,
  p_occurred_at timestamptz,
  p_object_path text
) returns void
language sql set search_path = ''
as $$
  insert into public.generation_webhook_outbox
    (endpoint_id, channel, session_id, type, data, occurred_at, object_path)
  select e.id, p_channel, p_session_id, p_type,
         jsonb_build_object(
           'session_id', p_session_id,
           'channel', p_channel,
           'user_id', case p_channel when 'b2c' then p_owner_id end,
           'store_id', case p_channel when 'b2b' then p_owner_id end,
           'request_id', p_request_id,
           'code', p_code,
           'attempts', p_attempts,
           'given_back', p_given_back
         ),
         p_occurred_at, p_object_path
    from public.generation_webhook_endpoints e
   where e.disabled_at is null
     and (e.store_id is null or (p_channel = 'b2b' and e.store_id = p_owner_id))
  on conflict do nothing
$$;

-- Writes the event of a session whose first attempt the ledger has just counted, or which it has just closed; of
-- one whose row is gone nothing is told. An end that the row told before is taken back where it was not so: the
-- true one has an id of its own, because a receiver passes over an id that it had before.
--
-- The events taken back may be locked by a report. That is waited for as in 020: half a second, and then raised.
create or replace function generation_private.note_ledger_event() returns trigger
language plpgsql security definer set search_path = '' set lock_timeout = '500ms'
as $$
declare
  v_type constant text := 'generation.' || case
    when new.outcome is null then 'processing'
    when new.error_code = 'cancelled' then 'cancelled'
    else new.outcome
  end;
  v_given_back constant boolean := coalesce(new.refund_state in ('refunded', 'already_refunded'), false);
begin
  if new.settled_by = 'gone' then
    return null;
  end if;
  if new.outcome is not null then
    delete from public.generation_webhook_outbox o
     where o.session_id = new.session_id and o.type <> 'generation.processing'
       and (o.type, o.data ->> 'code', (o.data ->> 'given_back')::boolean, o.object_path)
           is distinct from (v_type, new.error_code, v_given_back, new.object_path);
  end if;
  perform generation_private.write_webhook_event(
    new.channel, new.session_id, new.owner_id, new.request_id, v_type,
    p_code => new.error_code,
    p_attempts => new.attempt,
    p_given_back => v_given_back,
    p_occurred_at => coalesce(new.settled_at, new.claimed_at),
    p_object_path => new.object_path
  );
  return null;
end
$$;

-- Writes the event of a session row that was settled while no ledger row of it will be closed: there is none, or it
-- was set aside. The row's owner may have written it, so the event has no code and no picture, whatever stands there.
-- Fires at commit, when what the application gave back is there too.
create or replace function generation_private.note_webhook_event() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_channel constant text := tg_argv[0];
  v_session record;
  v_row public.generation_ledger;
  v_given_back boolean;
begin
  select * into v_session from generation_private.read_session(v_channel, new.id, 'none');
  if v_session.status is null
     or not exists (select from public.generation_webhook_endpoints where disabled_at is null) then
    return null;
  end if;
  select * into v_row from public.generation_ledger l where l.channel = v_channel and l.session_id = new.id;
  if found and v_row.flagged_reason is distinct from 'cannot_be_settled' then
    return null;
  end if;
  v_given_back := new.status = 'failed' and case v_channel
    when 'b2c' then generation_private.cron_refund(v_session.owner_id, new.id) is not null
    else exists (
      select from public.store_credit_transactions t
       where t.store_id = v_session.owner_id and t.request_id = v_session.request_id and t.type = 'refund'
    )
  end;
  perform generation_private.write_webhook_event(
    v_channel, new.id, v_session.owner_id, coalesce(v_row.request_id, v_session.request_id),
    'generation.' || new.status,
    p_code => null,
    p_attempts => coalesce(v_row.attempt, 0),
    p_given_back => v_given_back,
    p_occurred_at => clock_timestamp(),
    p_object_path => null
  );
  return null;
end
$$;

-- It had no limit for the endpoints that fail.
drop function if exists public.generation_webhooks_claim(integer, integer, integer, uuid[]);

-- What is due, at most p_limit; nothing for those in p_busy. An endpoint that works gets p_per_endpoint at most, but
-- its second only once every endpoint has its first, and the one that was tried longest ago comes first. One that
-- fails gets one, and all that fail together at most p_failing_limit, those in p_busy included.
-- Each is the caller's for the lease, and due again after it.
-- Answers {endpoints, deliveries: [{id, endpoint_id, type, data, occurred_at, object_path, attempts, url,
-- secrets}]}; endpoints: how many are enabled.
create or replace function public.generation_webhooks_claim(
  p_limit integer, p_per_endpoint integer, p_failing_limit integer, p_lease_seconds integer, p_busy uuid[]
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_deliveries jsonb;
begin
  with endpoints as (
    select e.*, e.failing_since is not null as fails, e.id = any (p_busy) as busy
      from public.generation_webhook_endpoints e
     where e.disabled_at is null
  ), waiting as (
    select o.id, o.place, e.id as endpoint_id, e.fails, e.last_tried_at
      from endpoints e
     cross join lateral (
       select q.id, row_number() over (order by q.due_at) as place
         from public.generation_webhook_outbox q
        where q.endpoint_id = e.id and q.due_at <= v_now
        order by q.due_at
        limit case when e.fails then 1 else p_per_endpoint end
     ) o
     where not e.busy
  ), in_turn as (
    select w.*, row_number() over (partition by w.fails order by w.place, w.last_tried_at nulls first) as turn
      from waiting w
  ), due as (
    select q.id
      from in_turn w
      join public.generation_webhook_outbox q on q.id = w.id
     where q.due_at <= v_now -- again, for another may have claimed it since
       and (not w.fails or w.turn <= p_failing_limit - (select count(*) from endpoints where fails and busy))
     order by w.place, w.last_tried_at nulls first
     limit p_limit
       for no key update of q skip locked
  ), claimed as (
    update public.generation_webhook_outbox q
       set due_at = v_now + make_interval(secs => p_lease_seconds), attempts = attempts + 1,
           last_attempt_at = v_now
      from due, endpoints e
     where q.id = due.id and e.id = q.endpoint_id
    returning q.id, q.endpoint_id, q.type, q.data, q.occurred_at, q.object_path, q.attempts, e.url,
           jsonb_build_array(e.secret) || case
             when e.previous_secret_until > v_now then jsonb_build_array(e.previous_secret) else '[]'
           end as secrets
  )
  select coalesce(jsonb_agg(to_jsonb(claimed)), '[]') into v_deliveries from claimed;
  return jsonb_build_object(
    'endpoints', (select count(*) from public.generation_webhook_endpoints where disabled_at is null),
    'deliveries', v_deliveries
  );
end
$$;

-- Takes note of what became of deliveries: [{id, endpoint_id, attempts, asked, delivered, gone, status, error,
-- retry_in_seconds}]. asked: whether the endpoint was; a try that it was not asked in says nothing about it. A
-- delivery that failed p_give_up_seconds after its first try is tried no more. An endpoint that is gone, or where
-- nothing has succeeded for p_disable_seconds, is disabled; that time begins anew where the endpoint was not tried
-- for p_give_up_seconds, because nothing was to be sent or no generator ran.
-- Answers {given_up, disabled: [{endpoint_id, reason}]}.
create or replace function public.generation_webhooks_report(
  p_results jsonb, p_give_up_seconds integer, p_disable_seconds integer
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_given_up integer;
  v_endpoint record;
  v_failing_since timestamptz;
  v_reason text;
  v_disabled jsonb := '[]';
begin
  with results as (
    select * from jsonb_to_recordset(p_results) as r (
      id uuid, attempts integer, delivered boolean, status integer, error text, retry_in_seconds double precision
    )
  ), noted as (
    update public.generation_webhook_outbox q
       set delivered_at = case when r.delivered then v_now end,
           due_at = case
             when not r.delivered and v_now + make_interval(secs => r.retry_in_seconds)
               <= q.tried_since + make_interval(secs => p_give_up_seconds)
               then v_now + make_interval(secs => r.retry_in_seconds)
           end,
           given_up_at = case
             when not r.delivered and v_now + make_interval(secs => r.retry_in_seconds)
               > q.tried_since + make_interval(secs => p_give_up_seconds) then v_now
           end,
           last_status = r.status, last_error = r.error
      from results r
     -- A failure counts only if nobody has claimed the delivery since; a success counts in any case.
     where q.id = r.id and q.delivered_at is null and (r.delivered or q.attempts = r.attempts)
    returning q.given_up_at
  )
  select count(*) filter (where given_up_at is not null) into v_given_up from noted;

  for v_endpoint in
    select r.endpoint_id, bool_or(r.delivered) as works, bool_or(r.gone) as gone
      from jsonb_to_recordset(p_results) as r (
             endpoint_id uuid, asked boolean, delivered boolean, gone boolean
           )
     where r.asked
     group by r.endpoint_id
     order by r.endpoint_id -- two reports never wait for each other
  loop
    update public.generation_webhook_endpoints
       set last_tried_at = v_now,
           failing_since = case
             when v_endpoint.works and not v_endpoint.gone then null
             when last_tried_at > v_now - make_interval(secs => p_give_up_seconds)
               then coalesce(failing_since, v_now)
             else v_now
           end
     where id = v_endpoint.endpoint_id and disabled_at is null
    returning failing_since into v_failing_since;
    v_reason := case
      when not found then null
      when v_endpoint.gone then 'gone'
      when v_failing_since <= v_now - make_interval(secs => p_disable_seconds) then 'failing'
    end;
    if v_reason is not null then
      update public.generation_webhook_endpoints set disabled_at = v_now, disabled_reason = v_reason
       where id = v_endpoint.endpoint_id;
      v_disabled := v_disabled
        || jsonb_build_object('endpoint_id', v_endpoint.endpoint_id, 'reason', v_reason);
    end if;
  end loop;
  return jsonb_build_object('given_up', v_given_up, 'disabled', v_disabled);
end
$$;

-- Begins anew with deliveries: with one, or with all that were given up of an endpoint. Answers how many.
create or replace function public.generation_webhooks_resend(p_id uuid, p_endpoint_id uuid) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_count integer;
begin
  update public.generation_webhook_outbox
     set due_at = clock_timestamp(), tried_since = clock_timestamp(), attempts = 0,
         delivered_at = null, given_up_at = null
   where id = p_id or (endpoint_id = p_endpoint_id and given_up_at is not null);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- Forgets at most p_limit events that are older than p_keep_seconds and are sent no more, and answers figures for
-- the metrics: {enabled, failing, disabled, waiting, oldest_seconds}. disabled: not by an operator. waiting and
-- oldest_seconds: of what is still to be sent, to endpoints that are enabled.
create or replace function public.generation_webhooks_tidy(p_keep_seconds integer, p_limit integer) returns jsonb
language plpgsql set search_path = ''
as $$
begin
  delete from public.generation_webhook_outbox
   where id in (
     select q.id from public.generation_webhook_outbox q
      where q.created_at < clock_timestamp() - make_interval(secs => p_keep_seconds)
        and (q.due_at is null or not exists (
          select from public.generation_webhook_endpoints e
           where e.id = q.endpoint_id and e.disabled_at is null
        ))
      order by q.created_at
      limit p_limit
        for update skip locked
   );
  return (
    select jsonb_build_object(
        'enabled', count(*) filter (where e.disabled_at is null),
        'failing', count(*) filter (where e.disabled_at is null and e.failing_since is not null),
        'disabled', count(*) filter (where e.disabled_reason <> 'operator')
      )
      from public.generation_webhook_endpoints e
  ) || (
    select jsonb_build_object(
        'waiting', count(*),
        'oldest_seconds', coalesce(round(extract(epoch from clock_timestamp() - min(q.tried_since)), 3), 0)
      )
      from public.generation_webhook_outbox q
      join public.generation_webhook_endpoints e on e.id = q.endpoint_id and e.disabled_at is null
     where q.due_at is not null
  );
end
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
revoke execute on function
  public.generation_webhooks_claim(integer, integer, integer, integer, uuid[]),
  public.generation_webhooks_report(jsonb, integer, integer),
  public.generation_webhooks_resend(uuid, uuid),
  public.generation_webhooks_tidy(integer, integer)
from public, anon, authenticated;
grant execute on function
  public.generation_webhooks_claim(integer, integer, integer, integer, uuid[]),
  public.generation_webhooks_report(jsonb, integer, integer),
  public.generation_webhooks_resend(uuid, uuid),
  public.generation_webhooks_tidy(integer, integer)
to service_role;

-- No trigger is created again where it stands: that takes a lock which stops all writing to the table.
do $$
declare
  v_table record;
  v_definition text;
begin
  for v_table in
    select * from (values
      ('b2c', 'public.generation_sessions'::regclass), ('b2b', 'public.store_generation_sessions'::regclass)
    ) t (channel, name)
  loop
    select pg_catalog.pg_get_triggerdef(oid) into v_definition
      from pg_catalog.pg_trigger where tgrelid = v_table.name and tgname = 'generation_webhook_event';
    -- One from before the ledger told the beginning fires for it too.
    if v_definition like '%processing%' then
      execute format('drop trigger generation_webhook_event on %s', v_table.name);
    end if;
    if v_definition is null or v_definition like '%processing%' then
      execute format(
        'create constraint trigger generation_webhook_event after update of status on %s
           deferrable initially deferred for each row
           when (old.status not in (''completed'', ''failed'') and new.status in (''completed'', ''failed''))
           execute function generation_private.note_webhook_event(%L)',
        v_table.name, v_table.channel
      );
    end if;
  end loop;
  if not exists (
    select from pg_catalog.pg_trigger
     where tgrelid = 'public.generation_ledger'::regclass and tgname = 'generation_webhook_event'
  ) then
    create trigger generation_webhook_event after update of state on public.generation_ledger
      for each row
      when ((old.attempt = 0 and new.attempt = 1) or (old.state <> 'settled' and new.state = 'settled'))
      execute function generation_private.note_ledger_event();
  end if;
end
$$;
