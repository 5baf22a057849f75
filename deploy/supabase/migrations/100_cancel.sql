-- Cancelling a session: failed and refunded in one transaction, as long as no call of the provider has begun.
--
-- Whether one has is decided under the lock of the ledger row, by `call_begun_at`: a worker writes it under the
-- same lock right before its first call (generation_claim, generation_begin_call) and calls only if that
-- succeeded. So either the cancellation comes first, and the worker is turned away, or it comes too late. The
-- mark is never taken back: the provider may charge for a call whose answer a killed worker did not live to see.
-- Locks are taken in the order that 020 describes.

-- Workers from before there was a mark set none: what they have begun counts as called.
update public.generation_ledger
   set call_begun_at = coalesce(claimed_at, now())
 where state <> 'settled' and attempt > 0 and call_begun_at is null;

-- To be called by the user whose session it is (b2c), or by the service role. May be called again.
-- Answers {verdict, session_id, given_back, refund}.
-- cancelled | already_cancelled | too_late (a call has begun) | completed | failed (it had ended before) |
-- session_not_found (also to somebody who may not know of it)
create or replace function public.generation_cancel(p_session_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_session record;
  v_locked record;
  v_row public.generation_ledger;
  v_is_new boolean := false;
  v_verdict text;
begin
  select * into v_session from generation_private.session_for_caller(p_session_id);
  if v_session.status in ('queued', 'pending') then
    -- No worker has come for it yet, or one is coming: whoever enters it first is first.
    insert into public.generation_ledger (channel, session_id, owner_id, request_id, lease_expires_at)
    values (v_session.channel, p_session_id, v_session.owner_id, v_session.request_id, clock_timestamp())
    on conflict do nothing;
    v_is_new := found;
  end if;
  v_row := generation_private.lock_row(v_session.channel, p_session_id);
  case
    when v_session.channel is null then
      v_verdict := 'session_not_found';
    when v_row.settled_by = 'cancellation' then
      v_verdict := 'already_cancelled';
    when v_row.state = 'settled' then
      v_verdict := v_row.outcome;
    when v_row.channel is null then
      -- Processing, but not known here: a worker's that knows no ledger.
      v_verdict := case when generation_private.is_settled(v_session.status) then v_session.status else 'too_late' end;
    when v_row.call_begun_at is not null then
      v_verdict := 'too_late';
    else
      select * into v_locked from generation_private.lock_for_settling(v_session.channel, p_session_id, true);
      case
        when v_locked.status is null or generation_private.is_settled(v_locked.status) then
          v_row := generation_private.close_elsewhere(v_row, v_locked.status, v_locked.request_id);
          v_verdict := coalesce(v_locked.status, 'session_not_found');
        when v_is_new and v_locked.status = 'processing' then
          delete from public.generation_ledger where channel = v_session.channel and session_id = p_session_id;
          v_verdict := 'too_late';
        else
          v_row := generation_private.fail_session(
            v_row, 'cancellation', 'cancelled', generation_private.sentence('cancelled')
          );
          v_verdict := 'cancelled';
      end case;
  end case;
  return jsonb_build_object('verdict', v_verdict, 'session_id', p_session_id)
    || generation_private.refund_told(v_row);
end
$$;

revoke execute on function public.generation_cancel(uuid) from public, anon, authenticated;
grant execute on function public.generation_cancel(uuid) to authenticated, service_role;
