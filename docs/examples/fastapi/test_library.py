"""Tests of the API over HTTP. All of them, in all workers, use the same server."""

from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def book(client):
    """The number of a book with two copies, for this test alone."""
    return client.post("/books", json={"title": "Emma", "copies": 2}).json()["id"]


def available(client, book):
    return client.get(f"/books/{book}").json()["available"]


def test_new_book_is_available(client, book):
    answer = client.get(f"/books/{book}")
    assert answer.status_code == 200
    assert answer.json() == {"id": book, "title": "Emma", "available": 2}


def test_unknown_book_is_not_found(client):
    answer = client.get("/books/0")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "there is no book 0"}


def test_book_without_a_copy_is_refused(client):
    answer = client.post("/books", json={"title": "Emma", "copies": 0})
    assert answer.status_code == 422


def test_loan_takes_a_copy(client, book):
    assert client.post(f"/books/{book}/loans").status_code == 201
    assert available(client, book) == 1


def test_copy_that_is_given_back_is_available_again(client, book):
    loan = client.post(f"/books/{book}/loans").json()["id"]
    assert client.delete(f"/loans/{loan}").status_code == 204
    assert available(client, book) == 2
    assert client.delete(f"/loans/{loan}").status_code == 404


def test_unknown_book_is_not_lent(client):
    assert client.post("/books/0/loans").status_code == 404


def test_last_copies_are_lent_once(client, book):
    def borrow(_):
        return client.post(f"/books/{book}/loans").status_code

    with ThreadPoolExecutor(8) as customers:
        statuses = list(customers.map(borrow, range(8)))
    assert sorted(statuses) == [201] * 2 + [409] * 6
    assert available(client, book) == 0
