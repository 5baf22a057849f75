-- Retention: which pictures are old enough to be deleted, and taking note that they are.
--
-- Storage is not reached from here: the elected generator asks what is due, deletes the objects, and then reports.
-- Killed in between it deletes again, which is no error. What is due is read in order from a point given, so that
-- a picture that has to stay for now holds up none behind it.

-- Results of completed sessions, settled over p_hours ago, from (p_after, p_after_id) on.
-- Answers [{channel, session_id, owner_id, object_path, settled_at}], the oldest first.
create or replace function public.generation_results_due(
  p_hours integer, p_limit integer, p_after timestamptz, p_after_id uuid
) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(d) order by d.settled_at, d.session_id), '[]')
    from (
      select channel, session_id, owner_id, object_path, settled_at
        from public.generation_ledger
       where outcome = 'completed' and result_deleted_at is null
         and settled_at < now() - make_interval(hours => p_hours)
         and (settled_at, session_id) > (p_after, p_after_id)
       order by settled_at, session_id
       limit p_limit
    ) d
$$;

-- The same of settled sessions whose input pictures stand. Answers [{channel, session_id, owner_id, settled_at}].
create or replace function public.generation_inputs_due(
  p_hours integer, p_limit integer, p_after timestamptz, p_after_id uuid
) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(d) order by d.settled_at, d.session_id), '[]')
    from (
      select channel, session_id, owner_id, settled_at
        from public.generation_ledger
       where state = 'settled' and inputs_deleted_at is null
         and settled_at < now() - make_interval(hours => p_hours)
         and (settled_at, session_id) > (p_after, p_after_id)
       order by settled_at, session_id
       limit p_limit
    ) d
$$;

-- Users write to the columns of their rows what they like, so links are taken from them within limits: 100 of at
-- most 2,000 bytes before the query, from a value that takes at most 32 KiB where it is stored, down to level 100.
-- Sixteen signed links take 12 KB. What is larger is not even read.

-- Strings in a value that have p_part in them before their query.
create or replace function generation_private.links_in(p_value jsonb, p_part text) returns setof text
language sql immutable set search_path = ''
as $$
  select distinct v.value #>> '{}'
    from jsonb_path_query(
      case when pg_column_size(p_value) <= 32768 then p_value end,
      'strict $.**{0 to 100} ? (@.type() == "string")'
    ) v (value)
   where strpos(split_part(v.value #>> '{}', '?', 1), p_part) > 0
     and octet_length(split_part(v.value #>> '{}', '?', 1)) <= 2000
   limit 100
$$;

-- The links of a row by their column, {column: [link]}, without their queries, which let anybody open them.
create or replace function generation_private.picture_links(
  p_part text, p_model text, p_outfit text, p_stitched text, p_generated text, p_accessories jsonb
) returns jsonb
language sql immutable set search_path = ''
as $$
  select coalesce(jsonb_object_agg(f.name, f.links), '{}')
    from (
      select l.name, jsonb_agg(l.link) as links
        from (
          select c.name, split_part(i.link, '?', 1) as link
            from (
              values
                ('model_image_url', to_jsonb(case when octet_length(p_model) <= 8192 then p_model end)),
                ('outfit_image_url', to_jsonb(case when octet_length(p_outfit) <= 8192 then p_outfit end)),
                ('stitched_image_url', to_jsonb(case when octet_length(p_stitched) <= 8192 then p_stitched end)),
                ('generated_image_url', to_jsonb(case when octet_length(p_generated) <= 8192 then p_generated end)),
                ('accessories', p_accessories)
            ) c (name, value)
           cross join lateral generation_private.links_in(c.value, p_part) i (link)
           group by 1, 2
           order by c.name = 'accessories'
           limit 100
        ) l
       group by l.name
    ) f
$$;

-- The value with 'expired' in the place of these links, whatever their queries.
create or replace function generation_private.expire_links(p_value jsonb, p_links text[]) returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
  v_link text;
  v_text text;
begin
  for v_link in
    select i.link from generation_private.links_in(p_value, '/storage/v1/object/') i (link)
     where split_part(i.link, '?', 1) = any (p_links)
  loop
    v_text := replace(coalesce(v_text, p_value::text), to_jsonb(v_link)::text, '"expired"');
  end loop;
  return coalesce(v_text::jsonb, p_value);
end
$$;

-- Links with p_part in them, in the rows of these sessions, [{channel, session_id}].
-- Answers [{channel, session_id, row: {id, user_id or store_id, <column>: [link]}}]; `row` is null if there is none.
create or replace function public.generation_session_links(p_sessions jsonb, p_part text) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'channel', p.channel, 'session_id', p.session_id,
          'row', coalesce(
            (select jsonb_build_object('id', s.id, 'user_id', s.user_id) || generation_private.picture_links(
                 p_part, s.model_image_url, s.outfit_image_url, s.stitched_image_url, s.generated_image_url, s.accessories
               )
               from public.generation_sessions s where p.channel = 'b2c' and s.id = p.session_id),
            (select jsonb_build_object('id', s.id, 'store_id', s.store_id) || generation_private.picture_links(
                 p_part, s.model_image_url, s.outfit_image_url, null, s.generated_image_url, null
               )
               from public.store_generation_sessions s where p.channel = 'b2b' and s.id = p.session_id)
          )
        )
      ),
      '[]'
    )
    from jsonb_to_recordset(p_sessions) as p (channel text, session_id uuid)
$$;

drop function if exists public.generation_linked_pictures(uuid[], text, integer);

-- Links into a bucket of ours that sessions of these owners still need: those of unsettled ones, from their rows
-- and their tasks, and with p_hours also those of sessions settled since. Of the latter, which a store has many of,
-- only those are looked into that may name one of p_names, the last parts of the paths in question: a link whose
-- last part is not plain may be any of them. A row's status is its owner's to write: what the ledger has settled
-- is settled. p_folder: `/<bucket>/`.
-- Answers [link], without their queries.
create or replace function public.generation_linked_pictures(
  p_owners uuid[], p_folder text, p_hours integer, p_names text[]
) returns jsonb
language sql stable set search_path = ''
as $$
  with settled_since as (
    select channel, session_id from public.generation_ledger
     where p_hours is not null
       and state = 'settled' and inputs_deleted_at is null and owner_id = any (p_owners)
       and settled_at >= now() - make_interval(hours => p_hours)
  ), unsettled (channel, id, model_image_url, outfit_image_url, stitched_image_url, accessories) as (
    select 'b2c', id, model_image_url, outfit_image_url, stitched_image_url, accessories
      from public.generation_sessions
     where status in ('queued', 'pending') and user_id = any (p_owners)
    union all
    select 'b2c', id, model_image_url, outfit_image_url, stitched_image_url, accessories
      from public.generation_sessions
     where status = 'processing' and user_id = any (p_owners)
    union all
    select 'b2b', id, model_image_url, outfit_image_url, null, null from public.store_generation_sessions
     where status in ('queued', 'pending') and store_id = any (p_owners)
    union all
    select 'b2b', id, model_image_url, outfit_image_url, null, null from public.store_generation_sessions
     where status = 'processing' and store_id = any (p_owners)
  ), looked_into (model_image_url, outfit_image_url, stitched_image_url, accessories) as (
    select model_image_url, outfit_image_url, stitched_image_url, accessories from unsettled s
     -- Not `not exists`, which may be planned as a reading of the whole ledger.
     where (
       select l.state from public.generation_ledger l where l.channel = s.channel and l.session_id = s.id
     ) is distinct from 'settled'
    union all
    select s.model_image_url, s.outfit_image_url, s.stitched_image_url, s.accessories
      from settled_since l
     -- One row at a time (offset 0): a plan for owners unknown would read whole tables.
     cross join lateral (
       select model_image_url, outfit_image_url, stitched_image_url, accessories
         from public.generation_sessions where l.channel = 'b2c' and id = l.session_id
       union all
       select model_image_url, outfit_image_url, null, null
         from public.store_generation_sessions where l.channel = 'b2b' and id = l.session_id
       offset 0
     ) s
     where exists (
       select from (values (s.model_image_url), (s.outfit_image_url), (s.stitched_image_url)) c (link)
        cross join lateral (select split_part(split_part(c.link, '?', 1), '/', -1)) n (name)
        where octet_length(c.link) <= 8192 and strpos(c.link, p_folder) > 0
          and (n.name in (select unnest(p_names)) or n.name ~ '[^A-Za-z0-9._-]')
     )
        or case when pg_column_size(s.accessories) <= 32768 then strpos(s.accessories::text, p_folder) > 0 end
  ), found as (
    select generation_private.picture_links(
        p_folder, model_image_url, outfit_image_url, stitched_image_url, null, accessories
      ) as links
      from looked_into
    union all
    select jsonb_build_object('task', jsonb_build_array(split_part(i.link, '?', 1)))
      from public.generation_ledger l
     cross join lateral generation_private.links_in(l.task -> 'image_urls', p_folder) i (link)
     where l.state <> 'settled' and l.owner_id = any (p_owners)
  )
  select coalesce(jsonb_agg(distinct l.link), '[]')
    from found f
   cross join lateral jsonb_path_query(f.links, '$.*[*]') l (link)
$$;

-- Takes note that the results of these sessions, [{channel, session_id}], are deleted; the link in the row becomes
-- 'expired', as the application writes it. A row that somebody else has locked is left, and its session due again.
-- Answers how many were noted.
create or replace function public.generation_results_deleted(p_sessions jsonb) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_channel text;
  v_ids uuid[];
  v_count integer;
  v_noted integer := 0;
begin
  foreach v_channel in array array['b2b', 'b2c'] loop
    select array_agg(l.session_id) into v_ids
      from (
        select l.session_id from public.generation_ledger l
          join jsonb_to_recordset(p_sessions) as p (channel text, session_id uuid)
            on p.channel = v_channel and l.channel = v_channel and l.session_id = p.session_id
         where l.result_deleted_at is null
         order by l.session_id
           for no key update of l skip locked
      ) l;
    execute format(
      'update %1$s s set generated_image_url = ''expired''
         from (
           select id from %1$s where id = any ($1) and generated_image_url <> ''expired''
              for no key update skip locked
         ) free
        where s.id = free.id',
      generation_private.session_table(v_channel)
    )
    using v_ids;
    execute format(
      'update public.generation_ledger l set result_deleted_at = clock_timestamp()
        where l.channel = $1 and l.session_id = any ($2)
          and not exists (
            select from %s s where s.id = l.session_id and s.generated_image_url <> ''expired''
          )',
      generation_private.session_table(v_channel)
    )
    using v_channel, v_ids;
    get diagnostics v_count = row_count;
    v_noted := v_noted + v_count;
  end loop;
  return v_noted;
end
$$;

-- Takes note that the input pictures of these sessions, [{channel, session_id, links}], are deleted; links: those
-- that led to them, without their queries. A locked row is left, as above.
-- Answers how many were noted.
create or replace function public.generation_inputs_deleted(p_sessions jsonb) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_item record;
  v_is_there boolean;
  v_changed integer;
  v_noted integer := 0;
begin
  for v_item in
    select * from jsonb_to_recordset(p_sessions) as p (channel text, session_id uuid, links jsonb)
     order by p.channel, p.session_id
  loop
    perform from public.generation_ledger l
      where l.channel = v_item.channel and l.session_id = v_item.session_id and l.inputs_deleted_at is null
        for no key update skip locked;
    continue when not found;
    execute format('select exists (select from %s where id = $1)', generation_private.session_table(v_item.channel))
    into v_is_there using v_item.session_id;
    if v_is_there and v_item.links <> '[]' then
      execute format(
        'update %1$s s
            set model_image_url = case when split_part(s.model_image_url, ''?'', 1) = any ($2)
                  then ''expired'' else s.model_image_url end,
                outfit_image_url = case when split_part(s.outfit_image_url, ''?'', 1) = any ($2)
                  then ''expired'' else s.outfit_image_url end%2$s
           from (select id from %1$s where id = $1 for no key update skip locked) free
          where s.id = free.id',
        generation_private.session_table(v_item.channel),
        case v_item.channel when 'b2c' then
          ', stitched_image_url = case when split_part(s.stitched_image_url, ''?'', 1) = any ($2)
               then ''expired'' else s.stitched_image_url end,
             accessories = generation_private.expire_links(s.accessories, $2)'
        else '' end
      )
      using v_item.session_id, array(select jsonb_array_elements_text(v_item.links));
      get diagnostics v_changed = row_count;
      continue when v_changed = 0;
    end if;
    update public.generation_ledger set inputs_deleted_at = clock_timestamp()
     where channel = v_item.channel and session_id = v_item.session_id;
    v_noted := v_noted + 1;
  end loop;
  return v_noted;
end
$$;

-- How many pictures are due, and how many are gone: {results: {due, oldest, deleted, last_deleted_at},
-- inputs: the same}. Null for what is not asked for (hours null).
create or replace function public.generation_retention(p_result_hours integer, p_input_hours integer) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'results', case when p_result_hours is not null then (
      select jsonb_build_object('due', count(*), 'oldest', min(settled_at))
        from public.generation_ledger
       where outcome = 'completed' and result_deleted_at is null
         and settled_at < now() - make_interval(hours => p_result_hours)
    ) end,
    'inputs', case when p_input_hours is not null then (
      select jsonb_build_object('due', count(*), 'oldest', min(settled_at))
        from public.generation_ledger
       where state = 'settled' and inputs_deleted_at is null
         and settled_at < now() - make_interval(hours => p_input_hours)
    ) end,
    'gone', (
      select jsonb_build_object(
          'results', count(result_deleted_at), 'inputs', count(inputs_deleted_at),
          'last_deleted_at', greatest(max(result_deleted_at), max(inputs_deleted_at))
        )
        from public.generation_ledger
    )
  )
$$;

revoke execute on function
  generation_private.links_in(jsonb, text),
  generation_private.picture_links(text, text, text, text, text, jsonb),
  generation_private.expire_links(jsonb, text[])
from public, anon, authenticated;
grant execute on function
  generation_private.links_in(jsonb, text),
  generation_private.picture_links(text, text, text, text, text, jsonb),
  generation_private.expire_links(jsonb, text[])
to service_role;
revoke execute on function
  public.generation_results_due(integer, integer, timestamptz, uuid),
  public.generation_inputs_due(integer, integer, timestamptz, uuid),
  public.generation_session_links(jsonb, text),
  public.generation_linked_pictures(uuid[], text, integer, text[]),
  public.generation_results_deleted(jsonb),
  public.generation_inputs_deleted(jsonb),
  public.generation_retention(integer, integer)
from public, anon, authenticated;
grant execute on function
  public.generation_results_due(integer, integer, timestamptz, uuid),
  public.generation_inputs_due(integer, integer, timestamptz, uuid),
  public.generation_session_links(jsonb, text),
  public.generation_linked_pictures(uuid[], text, integer, text[]),
  public.generation_results_deleted(jsonb),
  public.generation_inputs_deleted(jsonb),
  public.generation_retention(integer, integer)
to service_role;
