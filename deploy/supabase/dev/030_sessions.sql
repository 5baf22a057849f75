-- Local stand-in for the application's session tables, both live in the browser through Realtime.

create table if not exists public.generation_sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null,
  status text not null default 'queued'
    check (status in ('queued', 'pending', 'processing', 'completed', 'failed')),
  model_image_url text not null,
  outfit_image_url text,
  accessories jsonb,
  stitched_image_url text,
  prompt_system text not null,
  prompt_user text,
  generated_image_url text,
  credits_used integer default 1,
  error_message text,
  processing_time_ms integer,
  created_at timestamptz default now(),
  completed_at timestamptz,
  input_tokens integer,
  output_tokens integer,
  estimated_cost_usd numeric(10, 6)
);

create table if not exists public.store_generation_sessions (
  id uuid primary key default gen_random_uuid(),
  store_id uuid not null references public.stores (id) on delete cascade,
  shopper_email text,
  request_id text,
  status text not null default 'queued' check (status in ('queued', 'processing', 'completed', 'failed')),
  model_image_url text not null,
  outfit_image_url text,
  prompt_system text not null,
  prompt_user text,
  generated_image_url text,
  credits_used integer not null default 1,
  error_message text,
  processing_time_ms integer,
  created_at timestamptz default now(),
  completed_at timestamptz,
  input_tokens integer,
  output_tokens integer,
  estimated_cost_usd numeric(10, 6)
);

alter table public.generation_sessions enable row level security;
alter table public.store_generation_sessions enable row level security;

-- As in the application, a user may also write to rows of their own, whatever the column.
drop policy if exists own_sessions on public.generation_sessions;
create policy own_sessions on public.generation_sessions
  for select to authenticated using (user_id = auth.uid());
drop policy if exists own_sessions_update on public.generation_sessions;
create policy own_sessions_update on public.generation_sessions
  for update to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());

do $$
declare
  v_table text;
begin
  foreach v_table in array array['generation_sessions', 'store_generation_sessions'] loop
    if not exists (
      select from pg_publication_tables
       where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = v_table
    ) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
end
$$;

-- The application's daily cron, b2c only. The credit is given back first, then the row is written without
-- another look at its status, so it may undo what was settled in between. One session per call of
-- app_recover_stuck_session, since each is a request of its own there.
create or replace function public.app_recover_stuck_session(p_session_id uuid, p_user_id uuid) returns void
language plpgsql
as $$
begin
  perform public.refund_credits(
    p_user_id, 1, format('Stuck job recovery: session %s timed out after 10 minutes', p_session_id)
  );
  update public.generation_sessions
     set status = 'failed', error_message = 'Generation timed out. Your credit has been refunded.'
   where id = p_session_id;
end
$$;

create or replace function public.app_recover_stuck_sessions() returns integer
language plpgsql
as $$
declare
  v_session record;
  v_count integer := 0;
begin
  for v_session in
    select id, user_id from public.generation_sessions
     where status in ('queued', 'pending', 'processing') and created_at < now() - interval '10 minutes'
     order by created_at
  loop
    perform public.app_recover_stuck_session(v_session.id, v_session.user_id);
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;

-- Uninstalling a store fails what it still has queued, without a refund.
create or replace function public.app_uninstall_store(p_store_id uuid) returns integer
language plpgsql
as $$
declare
  v_count integer;
begin
  update public.store_generation_sessions
     set status = 'failed', error_message = 'The store was uninstalled.'
   where store_id = p_store_id and status = 'queued';
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

revoke execute on function
  public.app_recover_stuck_session(uuid, uuid),
  public.app_recover_stuck_sessions(),
  public.app_uninstall_store(uuid)
from public, anon, authenticated;
