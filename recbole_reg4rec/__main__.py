"""``python -m recbole_reg4rec``."""

from recbole_reg4rec.cli import main_and_exit

if __name__ == "__main__":
    main_and_exit()
