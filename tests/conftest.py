"""What every test of the suite shares."""

pytest_plugins = ["pytester"]
