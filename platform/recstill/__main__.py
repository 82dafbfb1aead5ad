from recstill.cli import main

main()
