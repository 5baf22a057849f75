-- How a session ends in the ledger, and how what was taken is given back.

-- The credit that the application's own cron gave back for this session, null if it did not.
create or replace function generation_private.cron_refund(p_user_id uuid, p_session_id uuid) returns integer
language sql stable set search_path = ''
as $$
  select abs(t.amount)
    from public.credit_transactions t
   where t.user_id = p_user_id
     and t.type = 'refund'
     and t.description like 'Stuck job recovery: session %'
     and t.description like 'Stuck job recovery: session ' || p_session_id || ' timed out%'
   limit 1
$$;

-- Gives back exactly what was taken, through the application's own functions, and says what became of it.
-- The caller holds the locks of the payer and of the session, which is not settled.
--
-- The refund is a savepoint: 23505 means it was given back before; any other error leaves the session to fail
-- with the refund owed, for a person. Only what passes by itself aborts the whole call, to be repeated.
create or replace function generation_private.give_back(
  p_channel text,
  p_session_id uuid,
  p_owner_id uuid,
  p_request_id text,
  p_shopper_email text,
  out state text,
  out amount integer,
  out payer text,
  out error text
)
language plpgsql set search_path = '' set lock_timeout = '500ms'
as $$
declare
  v_description text := format('Generation failed: session %s', p_session_id);
  v_deducted integer;
  v_overage boolean;
  v_mode text;
begin
  if p_channel = 'b2c' then
    payer := 'user';
    amount := generation_private.cron_refund(p_owner_id, p_session_id);
    if amount is not null then
      state := 'already_refunded';
      return;
    end if;
    -- Never credits_used: the owner of the row can write that column.
    amount := 1;
  else
    -- Without a request_id nothing ties a deduction to this session, and refund_store_credits could pay twice.
    select max(abs(t.amount)) filter (where t.type = 'deduction'), bool_or(t.type = 'overage')
      into v_deducted, v_overage
      from public.store_credit_transactions t
     where t.store_id = p_owner_id and t.request_id = p_request_id;
    if coalesce(v_deducted, 0) = 0 then
      state := case when v_overage then 'overage' else 'nothing_deducted' end;
      amount := 0;
      return;
    end if;
    amount := v_deducted;
    select s.billing_mode into v_mode from public.stores s where s.id = p_owner_id;
    payer := case v_mode when 'resell_mode' then 'shopper' when 'absorb_mode' then 'store' end;
    if exists (
      select from public.store_credit_transactions t
       where t.store_id = p_owner_id and t.request_id = p_request_id and t.type = 'refund'
    ) then
      state := 'already_refunded';
      return;
    end if;
  end if;

  begin
    case payer
      when 'user' then
        perform public.refund_credits(p_owner_id, amount, v_description);
        if not exists (select from public.user_credits where user_id = p_owner_id) then
          raise exception 'no balance to give back to' using errcode = 'no_data_found';
        end if;
      when 'store' then
        perform public.refund_store_credits(p_owner_id, amount, p_request_id, v_description);
        if not exists (select from public.store_credits where store_id = p_owner_id) then
          raise exception 'no balance to give back to' using errcode = 'no_data_found';
        end if;
      when 'shopper' then
        perform public.refund_store_shopper_credits(
          p_owner_id, p_shopper_email, amount, p_request_id, v_description
        );
      else
        raise exception 'unknown billing mode' using errcode = 'case_not_found';
    end case;
    state := 'refunded';
  exception
    when unique_violation then
      state := 'already_refunded';
    when transaction_rollback or lock_not_available or insufficient_resources then
      raise;
    when others then
      state := 'owed';
      error := sqlstate;
  end;
end
$$;

-- Closes the ledger row; what is null was not decided. Returns the row as it stands then.
create or replace function generation_private.close(
  p_row public.generation_ledger,
  p_outcome text,
  p_settled_by text,
  p_error_code text default null,
  p_object_path text default null,
  p_refund_state text default null,
  p_refund_amount integer default null,
  p_refund_payer text default null,
  p_refund_error text default null,
  p_flagged_reason text default null
) returns public.generation_ledger
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  update public.generation_ledger
     set state = 'settled', outcome = p_outcome, settled_by = p_settled_by, settled_at = v_now,
         error_code = p_error_code, object_path = p_object_path,
         refund_state = p_refund_state, refund_amount = p_refund_amount, refund_payer = p_refund_payer,
         refund_error = p_refund_error,
         refunded_at = case when p_refund_state in ('refunded', 'already_refunded') then v_now end,
         flagged_reason = p_flagged_reason,
         object_unwanted_since = case
           when p_outcome = 'failed' and p_settled_by in ('elsewhere', 'gone') and attempt > 0 then v_now
         end,
         last_holder = coalesce(holder, last_holder), holder = null, recovering = false,
         lease_expires_at = null, due_at = null, deadline_at = null, task = null
   where channel = p_row.channel and session_id = p_row.session_id
  returning * into p_row;
  return p_row;
end
$$;

-- Fails a session and gives back what was taken. The caller holds the locks of ledger row, payer and session
-- and has seen that the session is not settled.
create or replace function generation_private.fail_session(
  p_row public.generation_ledger, p_settled_by text, p_error_code text, p_message text
) returns public.generation_ledger
language plpgsql set search_path = ''
as $$
declare
  v_session record;
  v_refund record;
begin
  select * into v_session from generation_private.read_session(p_row.channel, p_row.session_id, 'none');
  select * into v_refund from generation_private.give_back(
    p_row.channel, p_row.session_id, v_session.owner_id, v_session.request_id, v_session.shopper_email
  );
  execute format(
    'update %s set status = ''failed'', error_message = $2 where id = $1',
    generation_private.session_table(p_row.channel)
  )
  using p_row.session_id, p_message;
  return generation_private.close(
    p_row, 'failed', p_settled_by, p_error_code,
    p_refund_state => v_refund.state,
    p_refund_amount => v_refund.amount,
    p_refund_payer => v_refund.payer,
    p_refund_error => v_refund.error,
    p_flagged_reason => case v_refund.state
      when 'owed' then 'refund_owed' when 'overage' then 'overage' when 'nothing_deducted' then 'nothing_deducted'
    end
  );
end
$$;

-- Closes the ledger on a session that was settled, or taken away, by the application or by its owner. The row
-- is not touched and nothing is paid: who settled it also decided about the credit. A person looks where that
-- cannot be known; a store that was uninstalled (which fails what is queued, for good) needs nobody.
create or replace function generation_private.close_elsewhere(
  p_row public.generation_ledger, p_status text, p_request_id text
) returns public.generation_ledger
language plpgsql set search_path = ''
as $$
declare
  v_given_back integer;
begin
  if p_status is null then
    return generation_private.close(
      p_row, 'failed', 'gone', 'session_not_found',
      p_refund_state => 'none', p_flagged_reason => 'session_gone'
    );
  end if;
  if p_row.channel = 'b2c' then
    v_given_back := generation_private.cron_refund(p_row.owner_id, p_row.session_id);
  else
    select abs(t.amount) into v_given_back
      from public.store_credit_transactions t
     where t.store_id = p_row.owner_id and t.request_id = p_request_id and t.type = 'refund';
  end if;
  if p_status = 'failed' and v_given_back is not null then
    return generation_private.close(
      p_row, 'failed', 'elsewhere',
      p_refund_state => 'already_refunded',
      p_refund_amount => v_given_back,
      p_refund_payer => case
        when p_row.channel = 'b2c' then 'user'
        when (select billing_mode from public.stores where id = p_row.owner_id) = 'resell_mode' then 'shopper'
        else 'store'
      end
    );
  end if;
  return generation_private.close(
    p_row, p_status, 'elsewhere',
    p_refund_state => 'none',
    p_flagged_reason => case
      when p_status = 'failed' and p_row.channel = 'b2b' and p_row.state <> 'working' then null
      else 'settled_elsewhere'
    end
  );
end
$$;

-- Locks the session and closes the ledger where it was settled behind the holder's back, or its credit was
-- given back by the cron, which writes the row only afterwards: going on would deliver a refunded picture.
create or replace function generation_private.settle_if_overtaken(p_row public.generation_ledger)
returns public.generation_ledger
language plpgsql set search_path = ''
as $$
declare
  v_session record;
begin
  select * into v_session from generation_private.read_session(p_row.channel, p_row.session_id, 'wait');
  if v_session.status is null or generation_private.is_settled(v_session.status) then
    return generation_private.close_elsewhere(p_row, v_session.status, v_session.request_id);
  end if;
  if p_row.channel = 'b2c' and generation_private.cron_refund(v_session.owner_id, p_row.session_id) is not null
  then
    return generation_private.fail_session(
      p_row, 'elsewhere', 'stuck', generation_private.sentence('stuck')
    );
  end if;
  return p_row;
end
$$;

-- Sets a session aside that cannot be settled: it stays as it is, no sweep looks at it again, and a person is
-- asked to. p_error: SQLSTATE. generation_looked_at gives it back to the sweep.
create or replace function generation_private.set_aside(p_row public.generation_ledger, p_error text)
returns public.generation_ledger
language plpgsql set search_path = ''
as $$
begin
  update public.generation_ledger
     set flagged_reason = 'cannot_be_settled', refund_error = p_error, looked_at = null, looked_at_note = null,
         lease_expires_at = 'infinity'
   where channel = p_row.channel and session_id = p_row.session_id
  returning * into p_row;
  return p_row;
end
$$;

-- The ledger row of a session, locked; all null when there is none.
create or replace function generation_private.lock_row(p_channel text, p_session_id uuid)
returns public.generation_ledger
language sql set search_path = ''
as $$
  select l.* from public.generation_ledger l
   where l.channel = p_channel and l.session_id = p_session_id
     for no key update
$$;

revoke execute on all functions in schema generation_private from public, anon, authenticated;
grant execute on all functions in schema generation_private to service_role;
