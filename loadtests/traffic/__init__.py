"""What is sent, and when: scenarios, arrivals, texts, and the run of Locust over them."""
