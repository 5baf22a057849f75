-- What may come of an attempt. Only its holder, with the current attempt number, decides anything: a process
-- that was paused beyond its lease and overtaken is refused. Each function repeats its answer to that holder.

-- A generator from before the periods were handed in calls these without the last argument.
drop function if exists public.generation_requeue(text, uuid, text, integer, integer, integer, text);
drop function if exists public.generation_postpone(text, uuid, text, integer);

-- Puts a rate-limited session back to queued, to be tried again when it is due. The sweep looks for a retry that
-- has not arrived p_grace_seconds later.
-- requeued | exhausted (nothing was changed: the attempt goes on, to be failed) | lost | settled
create or replace function public.generation_requeue(
  p_channel text,
  p_session_id uuid,
  p_holder text,
  p_attempt integer,
  p_delay_seconds integer,
  p_max_retries integer,
  p_error_code text,
  p_grace_seconds integer default 30
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(v_row, p_channel, p_session_id, p_holder, p_attempt);
  v_due_at timestamptz;
begin
  if v_row.state = 'retrying' and v_row.last_holder = p_holder and v_row.attempt = p_attempt then
    return generation_private.answer('requeued', v_row);
  end if;
  if v_answer is not null then
    return v_answer;
  end if;
  v_row := generation_private.settle_if_overtaken(v_row);
  if v_row.state = 'settled' then
    return generation_private.answer('settled', v_row);
  end if;
  if v_row.rate_limit_retries >= p_max_retries then
    return generation_private.answer('exhausted', v_row);
  end if;
  v_due_at := clock_timestamp() + make_interval(secs => p_delay_seconds);
  update public.generation_ledger
     set state = 'retrying', rate_limit_retries = rate_limit_retries + 1, error_code = p_error_code,
         holder = null, last_holder = p_holder, recovering = false, deadline_at = null,
         due_at = v_due_at, lease_expires_at = v_due_at + make_interval(secs => p_grace_seconds)
   where channel = p_channel and session_id = p_session_id
  returning * into v_row;
  perform generation_private.set_status(p_channel, p_session_id, 'queued');
  return generation_private.answer('requeued', v_row);
end
$$;

-- Ends an attempt without an outcome because the provider refuses every job just now. The session keeps its
-- status; its message is on its way back to the queue, so the sweep looks for it only after p_return_seconds.
-- postponed | lost | settled
create or replace function public.generation_postpone(
  p_channel text, p_session_id uuid, p_holder text, p_attempt integer, p_return_seconds integer default 60
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(v_row, p_channel, p_session_id, p_holder, p_attempt);
begin
  if v_row.state = 'waiting' and v_row.last_holder = p_holder and v_row.attempt = p_attempt then
    -- The answer to the first call was lost; whoever holds the session now has not claimed it yet.
    return generation_private.answer('postponed', v_row);
  end if;
  if v_answer is not null then
    return v_answer;
  end if;
  v_row := generation_private.settle_if_overtaken(v_row);
  if v_row.state = 'settled' then
    return generation_private.answer('settled', v_row);
  end if;
  update public.generation_ledger
     set state = 'waiting', postponed = postponed + 1, holder = null, last_holder = p_holder,
         recovering = false, deadline_at = null,
         lease_expires_at = clock_timestamp() + make_interval(secs => p_return_seconds)
   where channel = p_channel and session_id = p_session_id
  returning * into v_row;
  return generation_private.answer('postponed', v_row);
end
$$;

-- Notes what one answer of the provider cost, as soon as it is there. Kept even if the attempt was overtaken.
-- recorded
create or replace function public.generation_record_usage(
  p_channel text,
  p_session_id uuid,
  p_call_id uuid,
  p_attempt integer,
  p_model text,
  p_input_tokens integer,
  p_output_tokens integer,
  p_cost_usd numeric
) returns jsonb
language plpgsql set search_path = ''
as $$
begin
  insert into public.generation_usage
    (call_id, channel, session_id, attempt, model, input_tokens, output_tokens, cost_usd)
  values
    (p_call_id, p_channel, p_session_id, p_attempt, p_model, p_input_tokens, p_output_tokens, p_cost_usd)
  on conflict (call_id) do nothing;
  return jsonb_build_object('verdict', 'recorded');
end
$$;

-- Settles a session as completed. Without token figures (the picture was stored by an earlier attempt) those
-- of the provider's last recorded answer are taken.
-- completed | lost | settled
create or replace function public.generation_complete(
  p_channel text,
  p_session_id uuid,
  p_holder text,
  p_attempt integer,
  p_object_path text,
  p_result_url text,
  p_processing_time_ms integer,
  p_input_tokens integer,
  p_output_tokens integer,
  p_cost_usd numeric
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(
    v_row, p_channel, p_session_id, p_holder, p_attempt, 'completed'
  );
begin
  if v_answer is not null then
    if v_row.outcome = 'failed' then
      -- The caller has just stored an object that nobody will be shown.
      update public.generation_ledger set object_unwanted_since = clock_timestamp()
       where channel = p_channel and session_id = p_session_id;
    end if;
    return v_answer;
  end if;

  -- A refund that the cron is just making is waited for: a session is never both completed and refunded.
  perform generation_private.lock_for_settling(p_channel, p_session_id, true);
  v_row := generation_private.settle_if_overtaken(v_row);
  if v_row.state = 'settled' then
    return generation_private.answer('settled', v_row);
  end if;

  if p_input_tokens is null and p_output_tokens is null then
    select u.input_tokens, u.output_tokens, u.cost_usd
      into p_input_tokens, p_output_tokens, p_cost_usd
      from public.generation_usage u
     where u.channel = p_channel and u.session_id = p_session_id
     order by u.created_at desc
     limit 1;
  end if;
  execute format(
    'update %s set status = ''completed'', completed_at = clock_timestamp(), generated_image_url = $2,
            processing_time_ms = $3, input_tokens = $4, output_tokens = $5, estimated_cost_usd = $6,
            error_message = null
      where id = $1',
    generation_private.session_table(p_channel)
  )
  using p_session_id, p_result_url, p_processing_time_ms, p_input_tokens, p_output_tokens, p_cost_usd;
  v_row := generation_private.close(v_row, 'completed', 'worker', p_object_path => p_object_path);
  return generation_private.answer('completed', v_row);
end
$$;

-- Settles a session as failed and gives back what was taken, in this one transaction.
-- failed | lost | settled
create or replace function public.generation_fail(
  p_channel text,
  p_session_id uuid,
  p_holder text,
  p_attempt integer,
  p_error_code text,
  p_message text
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_row public.generation_ledger := generation_private.lock_row(p_channel, p_session_id);
  v_answer jsonb := generation_private.fence(v_row, p_channel, p_session_id, p_holder, p_attempt, 'failed');
  v_session record;
begin
  if v_answer is not null then
    return v_answer;
  end if;

  select * into v_session from generation_private.lock_for_settling(p_channel, p_session_id, true);
  if v_session.status is null or generation_private.is_settled(v_session.status) then
    v_row := generation_private.close_elsewhere(v_row, v_session.status, v_session.request_id);
    return generation_private.answer('settled', v_row);
  end if;
  v_row := generation_private.fail_session(v_row, 'worker', p_error_code, p_message);
  return generation_private.answer('failed', v_row);
end
$$;

-- Fails a session whose task was not valid. Only one that nobody knows and nobody works on: where a valid
-- task of the same session is in the ledger, that one decides.
-- failed | settled | busy | session_not_found
create or replace function public.generation_reject(
  p_channel text, p_session_id uuid, p_error_code text, p_message text
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_session record;
  v_row public.generation_ledger;
begin
  select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
  if v_session.status in ('queued', 'pending') then
    insert into public.generation_ledger (channel, session_id, owner_id, request_id, lease_expires_at)
    values (p_channel, p_session_id, v_session.owner_id, v_session.request_id, clock_timestamp())
    on conflict do nothing
    returning * into v_row;
  end if;
  if v_row.channel is null then
    v_row := generation_private.lock_row(p_channel, p_session_id);
    return case
      when v_row.settled_by = 'rejection' then generation_private.answer('failed', v_row)
      when v_row.state = 'settled' then generation_private.answer('settled', v_row)
      when v_row.channel is not null then generation_private.answer('busy', v_row)
      else generation_private.answer_unknown(
        case
          when v_session.status is null then 'session_not_found'
          when generation_private.is_settled(v_session.status) then 'settled'
          -- Processing, but not known here: an older worker's.
          else 'busy'
        end,
        p_channel, p_session_id, v_session.status
      )
    end;
  end if;

  select * into v_session from generation_private.lock_for_settling(p_channel, p_session_id, true);
  if v_session.status is null or generation_private.is_settled(v_session.status) then
    v_row := generation_private.close_elsewhere(v_row, v_session.status, v_session.request_id);
    return generation_private.answer('settled', v_row);
  end if;
  if v_session.status = 'processing' then
    delete from public.generation_ledger where channel = p_channel and session_id = p_session_id;
    return generation_private.answer_unknown('busy', p_channel, p_session_id);
  end if;
  v_row := generation_private.fail_session(v_row, 'rejection', p_error_code, p_message);
  return generation_private.answer('failed', v_row);
end
$$;

revoke execute on function
  public.generation_requeue(text, uuid, text, integer, integer, integer, text, integer),
  public.generation_postpone(text, uuid, text, integer, integer),
  public.generation_record_usage(text, uuid, uuid, integer, text, integer, integer, numeric),
  public.generation_complete(text, uuid, text, integer, text, text, integer, integer, integer, numeric),
  public.generation_fail(text, uuid, text, integer, text, text),
  public.generation_reject(text, uuid, text, text)
from public, anon, authenticated;
grant execute on function
  public.generation_requeue(text, uuid, text, integer, integer, integer, text, integer),
  public.generation_postpone(text, uuid, text, integer, integer),
  public.generation_record_usage(text, uuid, uuid, integer, text, integer, integer, numeric),
  public.generation_complete(text, uuid, text, integer, text, text, integer, integer, integer, numeric),
  public.generation_fail(text, uuid, text, integer, text, text),
  public.generation_reject(text, uuid, text, text)
to service_role;
