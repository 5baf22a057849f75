-- Sessions from before the ledger that are settled stay so, even if their owner writes 'queued' into one: it
-- would be taken for an orphan, and its credit given back although the picture was delivered. (That the owner
-- cannot give it an id the ledger does not know is seen to in 025.)
-- online: select statement from generation_private.history_statements()
--
-- Only what the ledger lacks is inserted, so that this costs two reads when it is applied again. And it should
-- be: what a worker that knows no ledger settled since then is entered too. `deploy/migrate` first runs, each by
-- itself, the statements that the query in the line above answers: batches of 1,000 pages (8 MB) of a table.

-- Enters the settled sessions in these pages of a session table. Answers how many the ledger did not know.
create or replace function generation_private.enter_history(p_channel text, p_first_page bigint, p_end_page bigint)
returns bigint
language plpgsql set search_path = ''
as $$
declare
  v_entered bigint;
begin
  execute format(
    'insert into public.generation_ledger
       (channel, session_id, owner_id, request_id, state, outcome, settled_by, settled_at, held_at)
     select %L, s.id, %s, %s, ''settled'', s.status, ''elsewhere'',
            coalesce(s.completed_at, s.created_at, now()), coalesce(s.created_at, now())
       from %s s
      where s.ctid >= format(''(%%s,0)'', $1)::tid and s.ctid < format(''(%%s,0)'', $2)::tid
        and s.status in (''completed'', ''failed'')
        and not exists (select from public.generation_ledger l where l.channel = %L and l.session_id = s.id)
     on conflict do nothing',
    p_channel,
    case p_channel when 'b2c' then 's.user_id' else 's.store_id' end,
    case p_channel when 'b2c' then 'null' else 's.request_id' end,
    case p_channel when 'b2c' then 'public.generation_sessions' else 'public.store_generation_sessions' end,
    p_channel
  )
  using p_first_page, p_end_page;
  get diagnostics v_entered = row_count;
  return v_entered;
end
$$;

create or replace function generation_private.history_statements() returns table (statement text)
language sql stable set search_path = ''
as $$
  select format('select generation_private.enter_history(%L, %s, %s)', t.channel, page, page + 1000)
    from (values ('b2c', 'public.generation_sessions'), ('b2b', 'public.store_generation_sessions')) t (channel, name)
   cross join lateral generate_series(0, pg_catalog.pg_relation_size(t.name::regclass) / 8192, 1000) page
$$;

-- All pages there can be.
do $$
begin
  perform generation_private.enter_history(channel, 0, 4294967295) from unnest(array['b2c', 'b2b']) channel;
end
$$;
