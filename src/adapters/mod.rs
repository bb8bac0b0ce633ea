pub mod rabbitmq;
