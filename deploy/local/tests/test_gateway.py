"""The gateway as the real clients see it: supabase-py unchanged, plain HTTP for what only a browser sends."""

from __future__ import annotations

import hashlib
from uuid import uuid4

import httpx
import pytest
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from supabase import Client, ClientOptions, create_client

from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.stack import BUCKET, Stack

PICTURE = SAMPLE_PERSON.read_bytes()
OTHER_PICTURE = SAMPLE_GARMENT.read_bytes()
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def supabase(stack: Stack) -> Client:
    return create_client(stack.gateway_url, stack.service_role_key)


@pytest.fixture
def path() -> str:
    return f"generated/{uuid4()}/{uuid4()}.jpg"


def anonymous(stack: Stack) -> Client:
    return create_client(stack.gateway_url, stack.anon_key)


def as_user(stack: Stack, token: str) -> Client:
    options = ClientOptions(headers={"Authorization": f"Bearer {token}"})
    return create_client(stack.gateway_url, stack.anon_key, options)


# PostgREST behind the gateway


def test_rpc_and_compare_and_set_answer_as_supabase_does(stack: Stack, supabase: Client) -> None:
    user_id = stack.app.create_user(credits=1)
    arguments = {"p_user_id": str(user_id), "p_amount": 1, "p_description": "try-on"}
    assert supabase.rpc("deduct_credits", arguments).execute().data is True
    assert supabase.rpc("deduct_credits", arguments).execute().data is False
    assert supabase.rpc("refund_credits", arguments).execute().data == []
    job = stack.app.b2c_job(user_id)
    update = supabase.table("generation_sessions").update({"status": "processing"})
    changed = update.eq("id", str(job.session_id)).in_("status", ["queued"]).execute()
    assert [row["id"] for row in changed.data] == [str(job.session_id)]
    again = update.eq("id", str(job.session_id)).in_("status", ["queued"]).execute()
    assert again.data == []


def test_database_errors_keep_their_codes(supabase: Client) -> None:
    with pytest.raises(APIError) as missing_function:
        supabase.rpc("no_such_function", {}).execute()
    assert missing_function.value.code == "PGRST202"
    with pytest.raises(APIError) as missing_table:
        supabase.table("no_such_table").select("*").execute()
    assert missing_table.value.code in {"42P01", "PGRST205"}


def test_rest_needs_a_known_api_key(stack: Stack) -> None:
    url = f"{stack.gateway_url}/rest/v1/user_credits"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"apikey": "wrong"}).status_code == 401
    assert httpx.get(url, headers={"apikey": stack.service_role_key}).status_code == 200
    assert httpx.get(url, params={"apikey": stack.service_role_key}).status_code == 200


def test_row_level_security_follows_the_token(stack: Stack) -> None:
    user_id, other_id = stack.app.create_user(credits=3), stack.app.create_user()
    mine = as_user(stack, stack.app.user_token(user_id)).table("user_credits").select("*").execute()
    assert [row["user_id"] for row in mine.data] == [str(user_id)]
    assert str(other_id) not in str(mine.data)
    assert anonymous(stack).table("user_credits").select("*").execute().data == []


# Storage


def test_what_was_uploaded_is_downloaded_and_described(stack: Stack, supabase: Client, path: str) -> None:
    bucket = supabase.storage.from_(BUCKET)
    uploaded = bucket.upload(path, PICTURE, JPEG)
    assert uploaded.full_path == f"{BUCKET}/{path}"
    assert bucket.download(path) == PICTURE
    assert bucket.exists(path)
    assert not bucket.exists(path + "x")
    info = bucket.info(path)
    assert (info["size"], info["content_type"]) == (len(PICTURE), "image/jpeg")
    stored = next(o for o in stack.gateway.objects() if o["name"] == path)
    assert stored["sha256"] == hashlib.sha256(PICTURE).hexdigest()
    assert stored["writes"] == 1


def test_an_existing_path_is_refused_unless_upserted(supabase: Client, path: str) -> None:
    bucket = supabase.storage.from_(BUCKET)
    bucket.upload(path, PICTURE, JPEG)
    with pytest.raises(StorageApiError) as refused:
        bucket.upload(path, OTHER_PICTURE, JPEG)
    assert (str(refused.value.status), refused.value.code) == ("409", "Duplicate")
    assert bucket.download(path) == PICTURE
    bucket.upload(path, OTHER_PICTURE, {**JPEG, "upsert": "true"})
    assert bucket.download(path) == OTHER_PICTURE


def test_the_refusal_of_an_existing_path_looks_like_the_real_one(stack: Stack, path: str) -> None:
    url = f"{stack.gateway_url}/storage/v1/object/{BUCKET}/{path}"
    headers = {"authorization": f"Bearer {stack.service_role_key}", **JPEG}
    assert httpx.post(url, content=PICTURE, headers=headers).status_code == 200
    answer = httpx.post(url, content=PICTURE, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["statusCode"] == "409"
    assert answer.json()["code"] == "KeyAlreadyExists"


def test_the_content_type_is_kept_and_is_text_without_one(supabase: Client, path: str) -> None:
    bucket = supabase.storage.from_(BUCKET)
    bucket.upload(path, PICTURE)
    assert bucket.info(path)["content_type"] == "text/plain;charset=UTF-8"
    bucket.upload(path, PICTURE, {**JPEG, "upsert": "true"})
    assert bucket.info(path)["content_type"] == "image/jpeg"


def test_a_signed_url_needs_no_key_and_expires(stack: Stack, supabase: Client, path: str) -> None:
    bucket = supabase.storage.from_(BUCKET)
    bucket.upload(path, PICTURE, JPEG)
    url = bucket.create_signed_url(path, 60)["signedURL"]
    assert url.startswith(f"{stack.gateway_url}/storage/v1/object/sign/{BUCKET}/{path}?token=")
    answer = httpx.get(url)
    assert answer.content == PICTURE
    assert answer.headers["content-type"] == "image/jpeg"
    expired = httpx.get(stack.app.sign(path, seconds=-1))
    assert expired.status_code == 400
    assert expired.json()["error"] == "InvalidJWT"
    assert expired.json()["statusCode"] == "400"
    moved = httpx.get(url.replace(path, path + "x"))
    assert (moved.status_code, moved.json()["error"]) == (400, "InvalidSignature")
    assert httpx.get(url.split("?")[0]).status_code == 400


def test_signing_what_does_not_exist_is_not_found(supabase: Client, path: str) -> None:
    bucket = supabase.storage.from_(BUCKET)
    with pytest.raises(StorageApiError) as missing:
        bucket.create_signed_url(path, 60)
    assert (str(missing.value.status), missing.value.code) == ("404", "not_found")
    bucket.upload(path, PICTURE, JPEG)
    signed = bucket.create_signed_urls([path, path + "x"], 60)
    assert httpx.get(signed[0]["signedURL"] or "").content == PICTURE
    assert signed[1]["error"]


def test_a_folder_is_listed_and_only_what_was_there_is_removed(supabase: Client) -> None:
    bucket, folder = supabase.storage.from_(BUCKET), f"folder-{uuid4()}"
    for name in ("b.jpg", "a.jpg", "deeper/c.jpg"):
        bucket.upload(f"{folder}/{name}", PICTURE, JPEG)
    assert [entry["name"] for entry in bucket.list(folder)] == ["a.jpg", "b.jpg", "deeper"]
    removed = bucket.remove([f"{folder}/a.jpg", f"{folder}/missing.jpg"])
    assert [entry["name"] for entry in removed] == [f"{folder}/a.jpg"]
    assert [entry["name"] for entry in bucket.list(folder)] == ["b.jpg", "deeper"]


@pytest.mark.parametrize(
    "paths", [[f"{number}.jpg" for number in range(1001)], ["a\0b.jpg"]], ids=["more than 1,000", "a NUL"]
)
def test_what_storage_does_not_take_is_not_removed(supabase: Client, paths: list[str]) -> None:
    with pytest.raises(StorageApiError):
        supabase.storage.from_(BUCKET).remove(paths)


def test_buckets_are_made_listed_and_deleted(supabase: Client) -> None:
    assert supabase.storage.get_bucket(BUCKET).public is False
    with pytest.raises(StorageApiError) as missing:
        supabase.storage.get_bucket("virtual-tryon-images")
    assert str(missing.value.status) == "404"
    name = f"bucket-{uuid4()}"
    supabase.storage.create_bucket(name)
    assert name in {bucket.id for bucket in supabase.storage.list_buckets()}
    supabase.storage.from_(name).upload("x.jpg", PICTURE, JPEG)
    with pytest.raises(StorageApiError):
        supabase.storage.delete_bucket(name)
    supabase.storage.empty_bucket(name)
    supabase.storage.delete_bucket(name)
    assert name not in {bucket.id for bucket in supabase.storage.list_buckets()}


def test_only_the_service_role_may_write_and_read(stack: Stack, supabase: Client, path: str) -> None:
    supabase.storage.from_(BUCKET).upload(path, PICTURE, JPEG)
    for client in (anonymous(stack), as_user(stack, stack.app.user_token(uuid4()))):
        bucket = client.storage.from_(BUCKET)
        with pytest.raises(StorageApiError) as write:
            bucket.upload(path + "x", PICTURE, JPEG)
        assert (str(write.value.status), write.value.code) == ("403", "Unauthorized")
        with pytest.raises(StorageApiError) as read:
            bucket.download(path)
        assert str(read.value.status) == "404"
    url = f"{stack.gateway_url}/storage/v1/object/{BUCKET}/{path}"
    forged = httpx.get(url, headers={"authorization": f"Bearer {stack.service_role_key}x"})
    assert (forged.status_code, forged.json()["statusCode"]) == (400, "403")


def test_paths_cannot_leave_the_bucket(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {stack.service_role_key}"}
    url = f"{stack.gateway_url}/storage/v1/object/{BUCKET}/a%2F..%2F..%2Fb"
    answer = httpx.post(url, content=PICTURE, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidKey")


def test_objects_survive_a_kill_of_the_gateway(stack: Stack, supabase: Client, path: str) -> None:
    supabase.storage.from_(BUCKET).upload(path, PICTURE, JPEG)
    stack.gateway.restart()
    reconnected = create_client(stack.gateway_url, stack.service_role_key)
    assert reconnected.storage.from_(BUCKET).download(path) == PICTURE


def test_samples_are_served_as_a_shop_would(stack: Stack) -> None:
    answer = httpx.get(stack.app.sample_url(SAMPLE_PERSON))
    assert (answer.content, answer.headers["content-type"]) == (PICTURE, "image/jpeg")


# Auth


def test_gateway_tells_whom_an_access_token_belongs_to(stack: Stack) -> None:
    user_id = stack.app.create_user()
    answer = anonymous(stack).auth.get_user(stack.app.user_token(user_id))
    assert answer is not None
    assert answer.user.id == str(user_id)


@pytest.mark.parametrize("token", ["made-up", "anon"])
def test_gateway_knows_no_user_without_a_users_token(stack: Stack, token: str) -> None:
    headers = {"Authorization": f"Bearer {stack.anon_key if token == 'anon' else token}"}
    assert httpx.get(f"{stack.gateway_url}/auth/v1/user", headers=headers).status_code == 403
