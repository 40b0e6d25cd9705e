"""A small API of a library: books, of which a limited number of copies can be lent."""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, PositiveInt
from sqlalchemy import create_engine, make_url, text


def open_database():
    """Return a pool of connections to the database that `DATABASE_URL` names."""
    url = make_url(os.environ["DATABASE_URL"])
    return create_engine(url.set(drivername="postgresql+psycopg"))


@asynccontextmanager
async def lifespan(app):
    app.state.database = open_database()
    yield
    app.state.database.dispose()


app = FastAPI(lifespan=lifespan)


class NewBook(BaseModel):
    title: str
    copies: PositiveInt = 1


@app.get("/health")
def health(request: Request):
    with request.app.state.database.connect() as connection:
        connection.execute(text("SELECT FROM loans LIMIT 1"))
    return {"status": "ok"}


@app.post("/books", status_code=201)
def add_book(book: NewBook, request: Request):
    with request.app.state.database.begin() as connection:
        number = connection.scalar(
            text("INSERT INTO books (title, copies) VALUES (:title, :copies) RETURNING id"),
            book.model_dump(),
        )
    return {"id": number, "title": book.title, "available": book.copies}


@app.get("/books/{number}")
def show_book(number: int, request: Request):
    with request.app.state.database.connect() as connection:
        book = connection.execute(
            text(
                "SELECT id, title, copies - (SELECT count(*) FROM loans WHERE book = books.id)"
                " AS available FROM books WHERE id = :number"
            ),
            {"number": number},
        ).one_or_none()
    if book is None:
        raise HTTPException(404, f"there is no book {number}")
    return book._asdict()


@app.post("/books/{number}/loans", status_code=201)
def lend(number: int, request: Request):
    with request.app.state.database.begin() as connection:
        # The lock lets two customers ask for the last copy one after the other.
        copies = connection.scalar(
            text("SELECT copies FROM books WHERE id = :number FOR UPDATE"), {"number": number}
        )
        lent = connection.scalar(
            text("SELECT count(*) FROM loans WHERE book = :number"), {"number": number}
        )
        if copies is None:
            raise HTTPException(404, f"there is no book {number}")
        if lent >= copies:
            raise HTTPException(409, "all copies are lent")
        loan = connection.scalar(
            text("INSERT INTO loans (book) VALUES (:number) RETURNING id"), {"number": number}
        )
    return {"id": loan, "book": number}


@app.delete("/loans/{number}", status_code=204)
def return_copy(number: int, request: Request):
    with request.app.state.database.begin() as connection:
        deleted = connection.execute(
            text("DELETE FROM loans WHERE id = :number"), {"number": number}
        )
    if not deleted.rowcount:
        raise HTTPException(404, f"there is no loan {number}")
