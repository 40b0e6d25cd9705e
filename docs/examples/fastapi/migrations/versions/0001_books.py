"""Books."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table(
        "books",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("copies", sa.Integer, sa.CheckConstraint("copies > 0"), nullable=False),
    )


def downgrade():
    op.drop_table("books")
