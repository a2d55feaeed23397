module conform/goref

go 1.23
