"""A Django project with its documented session framework: sessions in the cache, the cache in Redis.

Arguments: port, URL of Redis, serializer of the cache (`pickle`, the default of Django, or `json`).
"""

import json
import sys
import tempfile
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

port, redis_url, serializer = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class JsonSerializer:
    """Stores values as JSON, so that other programs can read them."""

    def dumps(self, value):
        return json.dumps(value).encode()

    def loads(self, data):
        return json.loads(data)


options = {"serializer": JsonSerializer()} if serializer == "json" else {}
database = tempfile.NamedTemporaryFile(suffix=".sqlite3")
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="only for this test",
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database.name}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": redis_url,
            "OPTIONS": options,
        }
    },
)
django.setup()

from django.contrib.auth import authenticate, get_user_model, login, logout  # noqa: E402


def home(request):
    return HttpResponse("<!doctype html><title>app</title>")


@csrf_exempt
def log_in(request):
    name = request.POST["username"]
    users = get_user_model().objects
    if not users.filter(username=name).exists():
        users.create_user(name, password=name)
    user = authenticate(request, username=name, password=name)
    login(request, user)
    return JsonResponse({"id": user.pk})


@csrf_exempt
def log_out(request):
    logout(request)
    return JsonResponse({})


urlpatterns = [path("", home), path("login", log_in), path("logout", log_out)]


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


call_command("migrate", verbosity=0)
make_server("127.0.0.1", port, get_wsgi_application(), handler_class=QuietHandler).serve_forever()
