-- Every index, ours and those on the application's tables.
-- online: select statement from generation_private.index_statements('concurrently')
--
-- Building one on a large table takes minutes, and a plain `create index` stops all writing to the table for as
-- long. `deploy/migrate` therefore first runs, each by itself, the statements that the query in the line above
-- answers; what this file does itself then finds nothing left to do. Applied by other means, or to a small
-- database, the file does the same at once.

create schema if not exists generation_private;
revoke all on schema generation_private from public;
grant usage on schema generation_private to service_role;

-- The statements that build what is missing, in order. p_how: 'concurrently' or ''.
-- An index whose building was interrupted stands there unusable and is dropped first.
create or replace function generation_private.index_statements(p_how text) returns table (statement text)
language sql stable set search_path = ''
as $$
  with wanted (place, name, table_name, columns, condition) as (values
    -- What is settled is history and must not slow down the sweep, hence partial indexes.
    (1, 'generation_ledger_lease_idx', 'generation_ledger', 'lease_expires_at', 'state <> ''settled'''),
    (2, 'generation_ledger_holder_idx', 'generation_ledger', 'holder', 'holder is not null'),
    (3, 'generation_ledger_flagged_idx', 'generation_ledger', 'settled_at',
        'flagged_reason is not null and looked_at is null'),
    (4, 'generation_ledger_unwanted_idx', 'generation_ledger', 'object_unwanted_since',
        'object_unwanted_since is not null'),
    (5, 'generation_usage_session_idx', 'generation_usage', 'channel, session_id', null),
    (6, 'generation_usage_created_at_idx', 'generation_usage', 'created_at', null),
    -- The search for orphans reads the oldest unsettled sessions only.
    (7, 'generation_sessions_waiting_idx', 'generation_sessions', 'created_at',
        'status in (''queued'', ''pending'')'),
    (8, 'generation_sessions_processing_idx', 'generation_sessions', 'created_at', 'status = ''processing'''),
    (9, 'store_generation_sessions_waiting_idx', 'store_generation_sessions', 'created_at',
        'status in (''queued'', ''pending'')'),
    (10, 'store_generation_sessions_processing_idx', 'store_generation_sessions', 'created_at',
        'status = ''processing'''),
    -- The few refunds of the application's own cron, which every b2c refund looks for first, and those of the
    -- last days among them. (An application's transactions may bear no date.)
    (11, 'credit_transactions_stuck_refund_idx', 'credit_transactions', 'user_id, description',
        'type = ''refund'' and description like ''Stuck job recovery: session %'''),
    (12, 'credit_transactions_stuck_refund_made_idx', 'credit_transactions', 'created_at',
        'type = ''refund'' and description like ''Stuck job recovery: session %'''),
    -- What retention has still to delete, the oldest first.
    (13, 'generation_ledger_result_kept_idx', 'generation_ledger', 'settled_at, session_id',
        'outcome = ''completed'' and result_deleted_at is null'),
    (14, 'generation_ledger_inputs_kept_idx', 'generation_ledger', 'settled_at, session_id',
        'state = ''settled'' and inputs_deleted_at is null'),
    -- What was cancelled lately.
    (15, 'generation_ledger_cancelled_idx', 'generation_ledger', 'settled_at', 'settled_by = ''cancellation'''),
    -- An owner's sessions of late whose inputs stand.
    (16, 'generation_ledger_owner_inputs_kept_idx', 'generation_ledger', 'owner_id, settled_at',
        'state = ''settled'' and inputs_deleted_at is null')
  ),
  standing (name, usable) as (
    select c.relname::text, i.indisvalid
      from pg_catalog.pg_index i
      join pg_catalog.pg_class c on c.oid = i.indexrelid
     where c.relnamespace = 'public'::regnamespace
  )
  select s.statement
    from wanted w
    left join standing on standing.name = w.name
   cross join lateral (values
      (1, case when not standing.usable then format('drop index %s if exists public.%I', p_how, w.name) end),
      (2, case when standing.usable is distinct from true then
        format('create index %s %I on public.%I (%s)', p_how, w.name, w.table_name, w.columns)
          || coalesce(' where ' || w.condition, '')
      end)
   ) s (step, statement)
   where s.statement is not null
     and (w.columns <> 'created_at' or exists (
       select from pg_catalog.pg_attribute
        where attrelid = format('public.%I', w.table_name)::regclass
          and attname = 'created_at' and not attisdropped
     ))
   order by w.place, s.step
$$;

do $$
declare
  v_statement text;
begin
  for v_statement in select statement from generation_private.index_statements('') loop
    execute v_statement;
  end loop;
end
$$;
