"""Train and evaluate REG4Rec or a RecBole sequential model: ``--help`` explains."""

from recbole_reg4rec.cli import main_and_exit

if __name__ == "__main__":
    main_and_exit()
