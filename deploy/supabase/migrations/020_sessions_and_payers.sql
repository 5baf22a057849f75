-- Helpers of the functions that follow, in a schema that PostgREST does not expose.
--
-- Order of locks. Every function locks the ledger row first, and waits for it while it holds nothing else; only
-- reap locks several, in the order of the primary key. Below the ledger row no function waits for one lock while
-- it holds another, because the application takes them in either order: its cron the payer's credit row and then
-- the session row, whoever deletes a user the session rows and then the credit row. `lock_for_settling` takes
-- store, credit row and session row all at once or none of them. What foreign keys and the application's own
-- refund functions lock is waited for half a second at most (`give_back`), less than the second after which
-- PostgreSQL looks for a deadlock and might end the application's transaction. The call then raises
-- lock_not_available (55P03), and its caller repeats it.

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

-- The end of a query that locks the rows it reads.
create or replace function generation_private.lock_clause(p_strength text, p_lock text) returns text
language sql immutable set search_path = ''
as $$ select ' for ' || p_strength || case p_lock when 'nowait' then ' nowait' else '' end $$;

-- The session row; status is null when there is none.
-- p_lock: 'none', 'wait' or 'nowait' (raises lock_not_available).
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
    case p_lock when 'none' then '' else generation_private.lock_clause('no key update', p_lock) end
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

drop function if exists generation_private.lock_payer(text, uuid, text, boolean);

-- Locks the store of a b2b session, to which the foreign key of a refund's row points; it may not be deleted then.
-- p_lock as in read_session.
create or replace function generation_private.lock_store(p_channel text, p_owner_id uuid, p_lock text)
returns void
language plpgsql set search_path = ''
as $$
begin
  if p_channel = 'b2b' then
    execute 'select from public.stores where id = $1' || generation_private.lock_clause('key share', p_lock)
    using p_owner_id;
  end if;
end
$$;

-- Locks the credit row of whoever paid. p_lock as in read_session.
create or replace function generation_private.lock_payer(
  p_channel text, p_owner_id uuid, p_shopper_email text, p_lock text
) returns void
language plpgsql set search_path = ''
as $$
begin
  execute case
      when p_channel = 'b2c' then 'select from public.user_credits where user_id = $1'
      when (select billing_mode from public.stores where id = p_owner_id) = 'resell_mode'
        then 'select from public.store_shopper_credits where store_id = $1 and shopper_email = $2'
      else 'select from public.store_credits where store_id = $1'
    end || generation_private.lock_clause('no key update', p_lock)
  using p_owner_id, p_shopper_email;
end
$$;

-- Locks store, payer and session, all or none, and answers the session as it stands then (status null: there is none).
-- Without p_wait it raises lock_not_available when somebody else has one of them. With p_wait it waits for each
-- while it holds none of the others, and raises only when others were faster 50 times.
create or replace function generation_private.lock_for_settling(
  p_channel text,
  p_session_id uuid,
  p_wait boolean,
  out owner_id uuid,
  out status text,
  out request_id text,
  out shopper_email text,
  out created_at timestamptz
)
language plpgsql set search_path = ''
as $$
declare
  v_session record;
begin
  for v_try in 1..50 loop
    select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
    begin
      perform generation_private.lock_store(p_channel, v_session.owner_id, 'nowait');
      perform generation_private.lock_payer(p_channel, v_session.owner_id, v_session.shopper_email, 'nowait');
      select s.* into owner_id, status, request_id, shopper_email, created_at
        from generation_private.read_session(p_channel, p_session_id, 'nowait') s;
      return;
    exception
      when lock_not_available then
        if not p_wait then
          raise;
        end if;
    end;
    perform generation_private.wait_until_free(
      p_channel, p_session_id, v_session.owner_id, v_session.shopper_email
    );
  end loop;
  raise exception 'payer or session stay locked' using errcode = 'lock_not_available';
end
$$;

-- Waits for the locks of store, payer and session, one after the other, and keeps none: leaving a block by an
-- error takes back what was locked in it.
create or replace function generation_private.wait_until_free(
  p_channel text, p_session_id uuid, p_owner_id uuid, p_shopper_email text
) returns void
language plpgsql set search_path = ''
as $$
begin
  for v_step in 1..3 loop
    begin
      case v_step
        when 1 then perform generation_private.lock_store(p_channel, p_owner_id, 'wait');
        when 2 then perform generation_private.lock_payer(p_channel, p_owner_id, p_shopper_email, 'wait');
        else perform generation_private.read_session(p_channel, p_session_id, 'wait');
      end case;
      raise exception 'free' using errcode = 'WR001';
    exception
      when sqlstate 'WR001' then null;
    end;
  end loop;
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

-- The fence of every function that only the current attempt may call: null for that one. Anybody else gets an
-- answer: lost, or settled. Whoever settled the session as p_outcome itself is told so again.
create or replace function generation_private.fence(
  p_row public.generation_ledger,
  p_channel text,
  p_session_id uuid,
  p_holder text,
  p_attempt integer,
  p_outcome text default null
) returns jsonb
language sql stable set search_path = ''
as $$
  select case
    when p_row.channel is null then generation_private.answer_unknown('lost', p_channel, p_session_id)
    when p_row.state = 'settled' then generation_private.answer(
      case
        when p_row.outcome = p_outcome and p_row.settled_by = 'worker'
          and p_row.last_holder = p_holder and p_row.attempt = p_attempt then p_outcome
        else 'settled'
      end,
      p_row
    )
    when p_row.state = 'working' and p_row.holder = p_holder and p_row.attempt = p_attempt then null
    else generation_private.answer('lost', p_row)
  end
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
