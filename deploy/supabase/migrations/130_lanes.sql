-- Lanes: what holds for one store or user, and which tasks wait in vain. The lanes themselves are in Redis; the elected
-- generator copies there what is here, so that nothing of it is lost with Redis.

create table if not exists public.generation_lane_rules (
  lane text primary key check (lane ~ '^(store|user):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
  -- Turns for one of a user.
  share integer check (share > 0),
  -- Most jobs in work at once.
  in_work integer check (in_work > 0),
  -- Most jobs started a minute.
  per_minute integer check (per_minute > 0),
  changed_at timestamptz not null default now(),
  constraint generation_lane_rules_not_empty check (num_nonnulls(share, in_work, per_minute) > 0)
);

alter table public.generation_lane_rules enable row level security;
revoke all on public.generation_lane_rules from public, anon, authenticated;
grant select, insert, update, delete on public.generation_lane_rules to service_role;

-- All rules, and at most p_limit sessions that were cancelled from p_since on, the oldest first; null: in the last
-- day. Answers {rules: {lane: {share, in_work, per_minute}}, cancelled: [{channel, session_id, owner_id}], next};
-- what is null is left out of a rule. next: p_since of the next call. It goes back a minute, because a transaction
-- that was under way may have an earlier time, and a task may come to its lane after its session was cancelled.
create or replace function public.generation_lanes(p_since timestamptz, p_limit integer) returns jsonb
language sql stable set search_path = ''
as $$
  with cancelled as (
    select channel, session_id, owner_id, settled_at
      from public.generation_ledger
     where settled_by = 'cancellation' and settled_at >= coalesce(p_since, now() - interval '1 day')
     order by settled_at
     limit p_limit
  )
  select jsonb_build_object(
    'rules', (
      select coalesce(jsonb_object_agg(lane, jsonb_strip_nulls(jsonb_build_object(
               'share', share, 'in_work', in_work, 'per_minute', per_minute))), '{}')
        from public.generation_lane_rules
    ),
    'cancelled', (
      select coalesce(jsonb_agg(to_jsonb(c) - 'settled_at' order by c.settled_at), '[]') from cancelled c
    ),
    'next', (
      select case when count(*) < p_limit then now() - interval '1 minute' else max(settled_at) end from cancelled
    )
  )
$$;

revoke execute on function public.generation_lanes(timestamptz, integer) from public, anon, authenticated;
grant execute on function public.generation_lanes(timestamptz, integer) to service_role;
