-- A session keeps its id for good.
--
-- The ledger knows a session by its id alone, and the owner of a b2c row may write to every column of it. Under
-- a new id a settled session would be one that the ledger never saw: set back to 'queued' it would look lost,
-- and its credit be given back, again and again. Nobody has a reason to do it, so nobody can, whatever the role.
-- An update that does not name the column costs nothing, one that names it and changes nothing passes.

create or replace function generation_private.refuse_new_session_id() returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception 'the id of a session cannot be changed' using errcode = 'restrict_violation';
end
$$;

revoke execute on function generation_private.refuse_new_session_id() from public, anon, authenticated;
grant execute on function generation_private.refuse_new_session_id() to service_role;

do $$
declare
  v_table regclass;
begin
  foreach v_table in array array['public.generation_sessions', 'public.store_generation_sessions']::regclass[] loop
    -- Not created again where it stands: that takes a lock which stops all writing to the table.
    if not exists (
      select from pg_catalog.pg_trigger where tgrelid = v_table and tgname = 'generation_session_keeps_id'
    ) then
      execute format(
        'create trigger generation_session_keeps_id before update of id on %s
           for each row when (old.id is distinct from new.id)
           execute function generation_private.refuse_new_session_id()',
        v_table
      );
    end if;
  end loop;
end
$$;
