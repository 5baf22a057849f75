-- Helpers of the functions that follow, in a schema that PostgREST does not expose.
--
-- Every function locks in this order: ledger row, payer's credit row, session row. Each works on one session;
-- the two that work on many (recover, reap) wait for no row below the ledger but skip what is locked. The
-- application's cron takes credit row and session row in the same order, so none of these can deadlock.

create schema if not exists generation_private;
revoke all on schema generation_private from public;
grant usage on schema generation_private to service_role;

create or replace function generation_private.session_table(p_channel text) returns regclass
language plpgsql immutable set search_path = ''
as $$
begin
  case p_channel
    when 'b2c' then return 'public.generation_sessions'::regclass;
    when 'b2b' then return 'public.store_generation_sessions'::regclass;
    else raise exception 'channel must be b2c or b2b' using errcode = 'invalid_parameter_value';
  end case;
end
$$;

-- The session row; status is null when there is none, or when it is locked and p_lock is 'skip'.
-- p_lock: 'none', 'wait' or 'skip'.
create or replace function generation_private.read_session(
  p_channel text,
  p_session_id uuid,
  p_lock text,
  out owner_id uuid,
  out status text,
  out request_id text,
  out shopper_email text,
  out created_at timestamptz
)
language plpgsql set search_path = ''
as $$
begin
  execute format(
    'select %s, status, %s, %s, created_at from %s where id = $1 %s',
    case p_channel when 'b2c' then 'user_id' else 'store_id' end,
    case p_channel when 'b2c' then 'null' else 'request_id' end,
    case p_channel when 'b2c' then 'null' else 'shopper_email' end,
    generation_private.session_table(p_channel),
    case p_lock when 'wait' then 'for no key update' when 'skip' then 'for no key update skip locked' else '' end
  )
  into owner_id, status, request_id, shopper_email, created_at
  using p_session_id;
end
$$;

create or replace function generation_private.is_settled(p_status text) returns boolean
language sql immutable set search_path = ''
as $$ select p_status in ('completed', 'failed') $$;

-- Sets the status unless it stands already: an update that changes nothing would still reach the browser.
create or replace function generation_private.set_status(p_channel text, p_session_id uuid, p_status text)
returns void
language plpgsql set search_path = ''
as $$
begin
  execute format(
    'update %s set status = $2 where id = $1 and status <> $2', generation_private.session_table(p_channel)
  )
  using p_session_id, p_status;
end
$$;

-- Locks the credit row of whoever paid. False only when somebody else has it locked and p_skip is true.
create or replace function generation_private.lock_payer(
  p_channel text, p_owner_id uuid, p_shopper_email text, p_skip boolean
) returns boolean
language plpgsql set search_path = ''
as $$
declare
  v_table text;
  v_condition text;
  v_locked integer;
  v_exists boolean;
begin
  if p_channel = 'b2c' then
    v_table := 'public.user_credits';
    v_condition := 'user_id = $1';
  elsif (select billing_mode from public.stores where id = p_owner_id) = 'resell_mode' then
    v_table := 'public.store_shopper_credits';
    v_condition := 'store_id = $1 and shopper_email = $2';
  else
    v_table := 'public.store_credits';
    v_condition := 'store_id = $1';
  end if;
  execute format(
    'select 1 from %s where %s for no key update %s',
    v_table, v_condition, case when p_skip then 'skip locked' else '' end
  )
  into v_locked using p_owner_id, p_shopper_email;
  if v_locked is null and p_skip then
    execute format('select exists (select from %s where %s)', v_table, v_condition)
    into v_exists using p_owner_id, p_shopper_email;
    return not v_exists;
  end if;
  return true;
end
$$;

-- What every function answers: the verdict and how the session stands in the ledger.
create or replace function generation_private.answer(p_verdict text, p_row public.generation_ledger)
returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'verdict', p_verdict,
    'channel', p_row.channel,
    'session_id', p_row.session_id,
    'attempt', p_row.attempt,
    'rate_limit_retries', p_row.rate_limit_retries,
    'lease_expires_at', p_row.lease_expires_at,
    'due_at', p_row.due_at,
    -- For whoever waits: their clock may be off.
    'due_in_seconds', case when p_row.due_at is not null then
      greatest(round(extract(epoch from p_row.due_at - now()), 3), 0.1)
    end,
    'deadline_at', p_row.deadline_at,
    'outcome', p_row.outcome,
    'settled_by', p_row.settled_by,
    'error_code', p_row.error_code,
    'refund', case when p_row.refund_state is not null then jsonb_build_object(
      'state', p_row.refund_state, 'amount', p_row.refund_amount, 'payer', p_row.refund_payer
    ) end,
    'flagged', p_row.flagged_reason is not null
  )
$$;

-- The same for a session the ledger does not know.
create or replace function generation_private.answer_unknown(
  p_verdict text, p_channel text, p_session_id uuid, p_status text default null
) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'verdict', p_verdict, 'channel', p_channel, 'session_id', p_session_id, 'attempt', 0,
    'outcome', case when generation_private.is_settled(p_status) then p_status end, 'flagged', false
  )
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
